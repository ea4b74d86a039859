//! What of datasparse.h this example uses, written by hand.
use std::os::raw::{c_char, c_void};

pub type Status = i32;
pub const OK: Status = 0;
pub const CALLBACK_ERROR: Status = 100;
pub const ABI_VERSION: u32 = 1;
pub const FLOAT32: i32 = 2;
pub const L1: i32 = 0;
pub const WHOLE_BLOCK: i64 = -1;

macro_rules! opaque {
    ($($name:ident),*) => {$(
        #[repr(C)]
        pub struct $name {
            _private: [u8; 0],
        }
    )*};
}
opaque!(Sparsifier, Scheduler, Params, Mask);

#[repr(C)]
pub struct Array {
    pub version: u32,
    pub dtype: i32,
    pub ndim: i32,
    pub read_only: i32,
    pub data: *mut c_void,
    pub shape: *const i64,
    pub strides: *const i64,
}

#[repr(C)]
pub struct BlockSpec {
    pub version: u32,
    pub norm: i32,
    pub sparsity_level: f64,
    pub block_height: i64,
    pub block_width: i64,
    pub zeros_per_block: i64,
}

#[repr(C)]
pub struct OwnState {
    pub user_data: *mut c_void,
    pub release: Option<unsafe extern "C" fn(*mut c_void)>,
    pub save: Option<unsafe extern "C" fn(*mut c_void, *mut Params) -> Status>,
    pub prepare_load: Option<unsafe extern "C" fn(*mut c_void, *const Params) -> Status>,
    pub commit_load: Option<unsafe extern "C" fn(*mut c_void)>,
}

#[repr(C)]
pub struct SchedulerOverrides {
    pub version: u32,
    pub own: OwnState,
    pub get_schedule_param: Option<
        unsafe extern "C" fn(*mut c_void, i64, *const Params, *const Params, *mut Params) -> Status,
    >,
}

extern "C" {
    pub fn datasparse_error_message() -> *const c_char;
    pub fn datasparse_set_error_message(message: *const c_char);
    pub fn datasparse_params_size(params: *const Params, size: *mut usize) -> Status;
    pub fn datasparse_params_key(
        params: *const Params,
        index: usize,
        key: *mut *const c_char,
    ) -> Status;
    pub fn datasparse_params_get_float(
        params: *const Params,
        key: *const c_char,
        value: *mut f64,
    ) -> Status;
    pub fn datasparse_params_set_float(
        params: *mut Params,
        key: *const c_char,
        value: f64,
    ) -> Status;
    pub fn datasparse_data_norm_sparsifier_create(
        defaults: *const BlockSpec,
        own: *const Params,
        overrides: *const c_void,
        sparsifier: *mut *mut Sparsifier,
    ) -> Status;
    pub fn datasparse_sparsifier_release(sparsifier: *mut Sparsifier);
    pub fn datasparse_sparsifier_add_data(
        sparsifier: *mut Sparsifier,
        name: *const c_char,
        data: *const Array,
        config: *const Params,
    ) -> Status;
    pub fn datasparse_sparsifier_step(sparsifier: *mut Sparsifier) -> Status;
    pub fn datasparse_sparsifier_apply_mask(sparsifier: *mut Sparsifier) -> Status;
    pub fn datasparse_sparsifier_mask(
        sparsifier: *const Sparsifier,
        name: *const c_char,
        mask: *mut *mut Mask,
    ) -> Status;
    pub fn datasparse_mask_zeros(mask: *const Mask, zeros: *mut i64) -> Status;
    pub fn datasparse_mask_release(mask: *mut Mask);
    pub fn datasparse_scheduler_create(
        sparsifier: *mut Sparsifier,
        schedule_param: *const c_char,
        overrides: *const SchedulerOverrides,
        last_epoch: i64,
        scheduler: *mut *mut Scheduler,
    ) -> Status;
    pub fn datasparse_scheduler_step(scheduler: *mut Scheduler) -> Status;
    pub fn datasparse_scheduler_release(scheduler: *mut Scheduler);
}
