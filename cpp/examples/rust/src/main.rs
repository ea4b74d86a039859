//! Trains a linear regression whose weights are zero where they hardly count. A scheduler written in Rust
//! raises the share of zeros from epoch to epoch, and refuses to go beyond its last.

mod ffi;

use ffi::Status;
use std::ffi::{CStr, CString};
use std::os::raw::c_void;
use std::ptr;

/// The message of a call that failed.
#[derive(Debug)]
struct Error(Status, String);

fn check(status: Status) -> Result<(), Error> {
    if status == ffi::OK {
        return Ok(());
    }
    let message = unsafe { CStr::from_ptr(ffi::datasparse_error_message()) };
    Err(Error(status, message.to_string_lossy().into_owned()))
}

/// Owns the handle, and nothing else.
struct Sparsifier {
    handle: *mut ffi::Sparsifier,
}

impl Sparsifier {
    fn new(sparsity_level: f64) -> Result<Self, Error> {
        let spec = ffi::BlockSpec {
            version: ffi::ABI_VERSION,
            norm: ffi::L1,
            sparsity_level,
            block_height: 1,
            block_width: 1,
            zeros_per_block: ffi::WHOLE_BLOCK,
        };
        let mut handle = ptr::null_mut();
        check(unsafe {
            ffi::datasparse_data_norm_sparsifier_create(
                &spec,
                ptr::null(),
                ptr::null(),
                &mut handle,
            )
        })?;
        Ok(Self { handle })
    }

    /// # Safety
    ///
    /// The memory must stay where it is, and nobody else may write it during a call, until the
    /// sparsifier is gone: the library keeps the pointer.
    unsafe fn add(&mut self, name: &CStr, data: *mut f32, length: usize) -> Result<(), Error> {
        let shape = [length as i64];
        let array = ffi::Array {
            version: ffi::ABI_VERSION,
            dtype: ffi::FLOAT32,
            ndim: 1,
            read_only: 0,
            data: data.cast::<c_void>(),
            shape: shape.as_ptr(),
            strides: ptr::null(),
        };
        check(unsafe {
            ffi::datasparse_sparsifier_add_data(self.handle, name.as_ptr(), &array, ptr::null())
        })
    }

    fn prune(&mut self) -> Result<(), Error> {
        check(unsafe { ffi::datasparse_sparsifier_step(self.handle) })?;
        check(unsafe { ffi::datasparse_sparsifier_apply_mask(self.handle) })
    }

    fn zeros(&self, name: &CStr) -> Result<i64, Error> {
        let (mut mask, mut zeros) = (ptr::null_mut(), 0);
        check(unsafe { ffi::datasparse_sparsifier_mask(self.handle, name.as_ptr(), &mut mask) })?;
        let counted = check(unsafe { ffi::datasparse_mask_zeros(mask, &mut zeros) });
        unsafe { ffi::datasparse_mask_release(mask) };
        counted.map(|()| zeros)
    }
}

impl Drop for Sparsifier {
    fn drop(&mut self) {
        unsafe { ffi::datasparse_sparsifier_release(self.handle) }
    }
}

/// What the schedule keeps of its own: the library releases it with the scheduler.
struct Rise {
    epochs: i64,
}

unsafe extern "C" fn rise(
    user_data: *mut c_void,
    last_epoch: i64,
    base: *const ffi::Params,
    _last: *const ffi::Params,
    values: *mut ffi::Params,
) -> Status {
    let own = &*user_data.cast::<Rise>();
    if last_epoch > own.epochs {
        ffi::datasparse_set_error_message(b"the training is over\0".as_ptr().cast());
        return ffi::CALLBACK_ERROR;
    }
    let share = last_epoch as f64 / own.epochs as f64;
    let set_all = || -> Result<(), Status> {
        let to_result = |status| {
            if status == ffi::OK {
                Ok(())
            } else {
                Err(status)
            }
        };
        let mut size = 0;
        to_result(ffi::datasparse_params_size(base, &mut size))?;
        for index in 0..size {
            let (mut name, mut level) = (ptr::null(), 0.0);
            to_result(ffi::datasparse_params_key(base, index, &mut name))?;
            to_result(ffi::datasparse_params_get_float(base, name, &mut level))?;
            to_result(ffi::datasparse_params_set_float(
                values,
                name,
                level * share,
            ))?;
        }
        Ok(())
    };
    set_all().err().unwrap_or(ffi::OK)
}

unsafe extern "C" fn release_rise(user_data: *mut c_void) {
    drop(Box::from_raw(user_data.cast::<Rise>()));
}

struct Scheduler {
    handle: *mut ffi::Scheduler,
}

impl Scheduler {
    fn new(sparsifier: &Sparsifier, epochs: i64) -> Result<Self, Error> {
        let own = Box::into_raw(Box::new(Rise { epochs })).cast::<c_void>();
        let overrides = ffi::SchedulerOverrides {
            version: ffi::ABI_VERSION,
            own: ffi::OwnState {
                user_data: own,
                release: Some(release_rise),
                save: None,
                prepare_load: None,
                commit_load: None,
            },
            get_schedule_param: Some(rise),
        };
        let mut handle = ptr::null_mut();
        let made = check(unsafe {
            ffi::datasparse_scheduler_create(
                sparsifier.handle,
                b"sparsity_level\0".as_ptr().cast(),
                &overrides,
                -1,
                &mut handle,
            )
        });
        if made.is_err() {
            unsafe { release_rise(own) }; // it is ours until there is a scheduler
        }
        made.map(|()| Self { handle })
    }

    fn step(&mut self) -> Result<(), Error> {
        check(unsafe { ffi::datasparse_scheduler_step(self.handle) })
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        unsafe { ffi::datasparse_scheduler_release(self.handle) }
    }
}

/// Numbers in [-1, 1), the same in every run.
fn random(state: &mut u64) -> f32 {
    *state = state
        .wrapping_mul(6364136223846793005)
        .wrapping_add(1442695040888963407);
    (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn main() -> Result<(), Error> {
    const FEATURES: usize = 200;
    const EPOCHS: i64 = 9;
    let mut state = 1;
    // One weight in ten counts.
    let rule: Vec<f32> = (0..FEATURES)
        .map(|i| {
            if i % 10 == 0 {
                1.0 + random(&mut state)
            } else {
                0.0
            }
        })
        .collect();
    let inputs: Vec<Vec<f32>> = (0..1000)
        .map(|_| (0..FEATURES).map(|_| random(&mut state)).collect())
        .collect();

    let mut weights = vec![0.0_f32; FEATURES];
    let (pointer, length) = (weights.as_mut_ptr(), weights.len());
    let name = CString::new("weights").expect("no zero byte");
    let mut sparsifier = Sparsifier::new(0.9)?;
    unsafe { sparsifier.add(&name, pointer, length)? };
    let mut scheduler = Scheduler::new(&sparsifier, EPOCHS)?;

    let mut loss = 0.0;
    for epoch in 0..=EPOCHS {
        loss = 0.0;
        for input in &inputs {
            // Through the one pointer that the library has too.
            let weights = unsafe { std::slice::from_raw_parts_mut(pointer, length) };
            let error = dot(weights, input) - dot(&rule, input);
            weights
                .iter_mut()
                .zip(input)
                .for_each(|(w, x)| *w -= 0.01 * error * x);
            loss += error * error;
            sparsifier.prune()?;
        }
        println!(
            "epoch {epoch}: {} zeros, loss {loss:.3}",
            sparsifier.zeros(&name)?
        );
        if epoch < EPOCHS {
            scheduler.step()?;
        }
    }
    assert_eq!(sparsifier.zeros(&name)?, 180);
    assert!(loss < 1.0, "the loss is {loss}");

    let Error(status, message) = scheduler.step().expect_err("it must refuse");
    assert_eq!(
        (status, message.as_str()),
        (ffi::CALLBACK_ERROR, "the training is over")
    );
    let Error(_, message) = Sparsifier::new(1.5).err().expect("it must refuse");
    assert!(
        message.contains("sparsity_level must be in [0, 1], got 1.5"),
        "{message}"
    );
    Ok(())
}
