//! Repositories of every kind, shipped without a guest: the archive is unpacked here and compared.

mod again;
mod hostile;
#[path = "../repositories/mod.rs"]
mod repositories;
mod ship;

use repositories::host as rig;
