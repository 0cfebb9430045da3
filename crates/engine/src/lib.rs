//! Decides, and cannot touch the machine: no files, no processes, no sockets, no time. SQLite in a folder is its one tool.

pub mod host;
