//! How the binary is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // At a fixed place nothing has to be relocated when a process starts. Segue starts itself often (a keeper beside each job, the host, its
    // proxy), and each start would write the same two megabytes of addresses into pages of its own. Heap, stack and libraries lie at random
    // places as before.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
}
