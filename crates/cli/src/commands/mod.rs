//! One file a command.

pub(crate) mod bench;
pub(crate) mod cluster;
pub(crate) mod cost;
pub(crate) mod demo;
pub(crate) mod instance;
pub(crate) mod invoke;
pub(crate) mod object;
pub(crate) mod service;
pub(crate) mod up;
pub(crate) mod version;
