//! Which instance a request goes to, and which instance goes when there are too many.
//!
//! [`Throttler`] stands in the activator, one a revision: it knows the ready instances and what each has in flight, sends
//! a request to one with room, as the revision's [`Policy`] says, and lets requests wait while there is none. Its choices
//! are Knative's. [`scale_in_order`] chooses victims as a ReplicaSet does.
//!
//! One activator sees all instances. Knative can split them among several; one machine has no use for that.

mod policy;
mod scale_in;
mod throttler;

pub use policy::{Load, Policy};
pub use scale_in::{Candidate, scale_in_order};
pub use throttler::{Assignment, Route, Throttler};
