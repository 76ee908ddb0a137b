//! `portforward`: a byte pipe to ports of a pod, through the agent of its node.

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{Action, Param, Subresource};
use crate::node_proxy;
use crate::rest::{Answer, Call};

pub(super) struct PortForward;

impl Subresource for PortForward {
    const NAME: &'static str = "portforward";
    const ACTION: Action = Action::Connect { act: answer, params: &[Param::Texts("ports")] };
}

fn answer(call: Call) -> BoxFuture<'static, Answer> {
    node_proxy::pod(call, "portForward", &["ports"]).boxed()
}
