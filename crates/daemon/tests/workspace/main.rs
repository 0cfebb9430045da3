//! Repositories of every kind, shipped without a guest: the archive is unpacked here and compared.

mod again;
mod hostile;
mod rig;
mod ship;
