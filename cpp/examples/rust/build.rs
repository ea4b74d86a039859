// Links libdatasparse.so from DATASPARSE_LIB_DIR, such as the lib folder of an installation.
fn main() {
    let folder = std::env::var("DATASPARSE_LIB_DIR").expect("set DATASPARSE_LIB_DIR");
    println!("cargo:rustc-link-search=native={folder}");
    println!("cargo:rustc-link-lib=dylib=datasparse");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    println!("cargo:rerun-if-env-changed=DATASPARSE_LIB_DIR");
}
