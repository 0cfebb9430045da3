//! The control API, served in-process on the simulated host and called as any client would: raw HTTP on the socket.

mod exec;
mod hostile;
mod instance;
mod lives;
mod rig;
mod routes;
