/// Everything.
#pragma once

#include "datasparse/adaptive_data_scheduler.hpp"
#include "datasparse/apply_mask.hpp"
#include "datasparse/array_view.hpp"
#include "datasparse/block_mask.hpp"
#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/data_scheduler.hpp"
#include "datasparse/data_source.hpp"
#include "datasparse/data_sparsifier.hpp"
#include "datasparse/error.hpp"
#include "datasparse/mask.hpp"
#include "datasparse/param.hpp"
#include "datasparse/plan.hpp"
#include "datasparse/runtime.hpp"
#include "datasparse/schedule.hpp"
