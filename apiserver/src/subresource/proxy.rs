//! `proxy`: HTTP to a pod, service or node through the API server.

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{Action, Param, Subresource};
use crate::node_proxy;
use crate::rest::{Answer, Call};

pub(super) struct Proxy;

impl Subresource for Proxy {
    const NAME: &'static str = "proxy";
    const ACTION: Action = Action::Connect { act: answer, params: &[Param::Text("path")] };
}

fn answer(call: Call) -> BoxFuture<'static, Answer> {
    node_proxy::unsupported(call).boxed()
}
