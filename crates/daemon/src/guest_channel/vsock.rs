//! The way to a real guest: the Unix socket of its vsock.

use super::{Dialling, GuestChannel};
use crate::guest;
use crate::layout::Layout;
use model::SandboxId;
use std::io;
use std::sync::Arc;

pub struct Vsock(Layout);

impl Vsock {
    pub fn channel(layout: Layout) -> Arc<dyn GuestChannel> {
        Arc::new(Vsock(layout))
    }
}

impl GuestChannel for Vsock {
    fn dial<'a>(&'a self, id: &'a SandboxId) -> Dialling<'a> {
        Box::pin(async move {
            let socket = self.0.vsock(id);
            let stream = guest::dial(&socket, wire::guest::AGENT_PORT).await.map_err(io::Error::other)?;
            Ok(Box::new(stream) as _)
        })
    }
}
