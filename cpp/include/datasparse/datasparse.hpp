/// Everything.
#pragma once

#include "datasparse/apply_mask.hpp"
#include "datasparse/array_view.hpp"
#include "datasparse/block_mask.hpp"
#include "datasparse/checkpoint.hpp"
#include "datasparse/data_norm_sparsifier.hpp"
#include "datasparse/data_scheduler.hpp"
#include "datasparse/data_source.hpp"
#include "datasparse/data_sparsifier.hpp"
#include "datasparse/error.hpp"
#include "datasparse/mask.hpp"
#include "datasparse/param.hpp"
#include "datasparse/plain_data.hpp"
#include "datasparse/runtime.hpp"
