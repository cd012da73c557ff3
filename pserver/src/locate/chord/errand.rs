//! [`Errand`]: a call of the ring on its way, and those that follow from its answer.
//!
//! Invariant: whatever becomes of an errand (it ends, panics, or is dropped in the middle), the
//! ring learns it: no stabilisation and no examination of a candidate waits for it any more.

use std::sync::Arc;

use super::{
    node::Node,
    state::{Call, Purpose},
};

/// See the module.
pub(super) struct Errand {
    node: Arc<Node>,
    waiting: Vec<Call>,
    under_way: Option<Purpose>,
}

impl Errand {
    pub(super) fn new(node: Arc<Node>, call: Call) -> Self {
        Self {
            node,
            waiting: vec![call],
            under_way: None,
        }
    }

    /// Carries everything out, one after another.
    pub(super) async fn run(mut self) {
        while let Some(call) = self.waiting.pop() {
            let Call {
                to,
                request,
                purpose,
            } = call;
            self.under_way = Some(purpose.clone());
            let token = || self.node.token_for(&to.contact.peer);
            let answer = self.node.calls.ring(&to, request, token).await;
            self.under_way = None;
            let further = self.node.ring().answered(&to, purpose, answer.ok());
            self.waiting.extend(further);
        }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        let waiting = self.waiting.drain(..).map(|call| call.purpose);
        for purpose in self.under_way.take().into_iter().chain(waiting) {
            self.node.ring().abandoned(&purpose);
        }
    }
}
