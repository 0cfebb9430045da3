//! Repositories for tests: [`host`] to be shipped and unpacked here, [`home`] for what comes back from a guest.
#![allow(dead_code)] // Each test binary uses its part.

pub mod home;
pub mod host;
