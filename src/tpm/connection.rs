//! One connection and what is kept in it for a burst: the storage root key's handle, one HMAC
//! session, loaded keys.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::command::{ContextLoad, ContextSave, FlushContext, Load};
use super::execute::{Auth, Entity, execute};
use super::fault::{Fault, Trouble};
use super::key::name_of;
use super::ledger::Ledger;
use super::session::HmacSession;
use super::srk::{self, Pinned};
use super::transport::Transport;
use super::{Call, KeyBlob, Name};
use crate::sync::plain::Instant;

/// How long flushing may take when a lease ends: what is left then falls with the connection, or
/// becomes a leftover.
const FAREWELL: Duration = Duration::from_secs(2);

/// What is behind the conf string, which decides what a lease keeps, because the cost does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// The TPM itself: three slots, one client at a time. One connection, two loaded keys.
    Bare,
    /// A resource manager that swaps everything of a connection around each of its commands: a
    /// connection for each loaded key; closing costs nothing, flushing does.
    Managed,
    /// tabrmd: few connections, lazy swapping. One connection, many loaded keys.
    Daemon,
}

/// A loaded key.
struct Loaded {
    id: [u8; 16],
    entity: Arc<Entity>,
}

/// Contexts of keys that were evicted from a bare TPM once: good until the TPM restarts.
#[derive(Default)]
pub(super) struct Contexts(VecDeque<Context>);

struct Context {
    id: [u8; 16],
    name: Name,
    bytes: Vec<u8>,
}

/// How many contexts are kept (about a kilobyte each).
const MOST_CONTEXTS: usize = 256;

impl Contexts {
    fn find(&self, id: &[u8; 16], name: &Name) -> Option<&Context> {
        self.0.iter().find(|context| context.id == *id && context.name == *name)
    }

    fn add(&mut self, context: Context) {
        if self.0.len() >= MOST_CONTEXTS {
            self.0.pop_front();
        }
        self.0.push_back(context);
    }

    /// The TPM was restarted, or may have been.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// A connection.
pub(super) struct Connection {
    pub(super) link: Ledger,
    pub(super) opened: Instant,
    /// When it was put back last.
    pub(super) used: Instant,
    session: Option<HmacSession>,
    salted: bool,
    root: Option<Pinned>,
    /// Least recently used first.
    keys: Vec<Loaded>,
}

impl Connection {
    pub(super) fn new(line: Box<dyn Transport>) -> Self {
        Self {
            link: Ledger::new(line),
            opened: Instant::now(),
            used: Instant::now(),
            session: None,
            salted: false,
            root: None,
            keys: Vec::new(),
        }
    }

    /// Whether nothing was sent yet: then the first command must be a harmless one, because it may
    /// wait in the queue of a busy TPM and be executed after we gave up.
    pub(super) fn is_fresh(&self) -> bool {
        self.link.commands() == 0
    }

    /// Whether this key is loaded here. Its Name decides, too: a key can be given another object in the
    /// TPM.
    pub(super) fn has(&self, blob: &KeyBlob) -> bool {
        name_of(&blob.public).is_ok_and(|name| self.place(blob, &name).is_some())
    }

    fn place(&self, blob: &KeyBlob, name: &Name) -> Option<usize> {
        self.keys.iter().position(|key| key.id == blob.id && key.entity.name == *name)
    }

    /// The storage root key of this connection, read and compared at most once in it.
    ///
    /// `known` is the one found by an earlier connection of this process: it is taken on trust where
    /// `fresh` does not ask for a look (the key's own Name in the blob says the rest).
    pub(super) fn root(
        &mut self,
        wanted: Option<&Name>,
        known: Option<&Pinned>,
        fresh: bool,
        call: &Call,
    ) -> Result<Pinned, Fault> {
        let fits = |root: &&Pinned| wanted.is_none_or(|name| root.name() == name);
        if let Some(root) = self.root.as_ref().filter(fits) {
            return Ok(root.clone());
        }
        let known = known.filter(|root| !root.is_transient());
        if let Some(root) = known.filter(fits).filter(|_| !fresh) {
            return Ok(root.clone());
        }
        let root = srk::find(&mut self.link, wanted, known, call)?;
        self.root = Some(root.clone());
        Ok(root)
    }

    /// The root that this connection has seen itself.
    pub(super) fn seen_root(&self) -> Option<&Pinned> {
        self.root.as_ref()
    }

    /// Forgets where the root is.
    pub(super) fn forget_root(&mut self) {
        self.root = None;
    }

    /// The one HMAC session of this connection and the line to use it on. With `root`: salted to it;
    /// without: whatever is there serves, for it is keyed by an object's own authorization.
    pub(super) fn session(
        &mut self,
        root: Option<&Pinned>,
        call: &Call,
    ) -> Result<(&mut Ledger, &mut HmacSession), Fault> {
        let serves = |session: &HmacSession, salted: bool| {
            !session.has_ended() && (salted || root.is_none())
        };
        let session = match self.session.take() {
            Some(session) if serves(&session, self.salted) => session,
            other => {
                if let Some(old) = other {
                    old.end(&mut self.link, call)?;
                }
                self.salted = root.is_some();
                match root {
                    Some(root) => HmacSession::salted(&mut self.link, root, call)?,
                    None => HmacSession::unsalted(&mut self.link, call)?,
                }
            }
        };
        Ok((&mut self.link, self.session.insert(session)))
    }

    /// Loads the key, if it is not: from its saved context, which needs no room for the parent, else
    /// from its blob. `most` is how many keys may be loaded afterwards.
    pub(super) fn load(
        &mut self,
        blob: &KeyBlob,
        root: impl FnOnce(&mut Self) -> Result<Pinned, Fault>,
        most: usize,
        contexts: Option<&mut Contexts>,
        call: &Call,
    ) -> Result<Arc<Entity>, Fault> {
        let name = name_of(&blob.public)?;
        if let Some(at) = self.place(blob, &name) {
            let key = self.keys.remove(at);
            let entity = key.entity.clone();
            self.keys.push(key);
            return Ok(entity);
        }
        let mut contexts = contexts;
        let crowded = self.keys.len() >= most;
        self.shrink(most.saturating_sub(1), contexts.as_deref_mut(), call)?;
        let restored = match contexts.as_deref_mut() {
            Some(contexts) => self.restore(blob, &name, contexts, call)?,
            None => None,
        };
        let entity = match restored {
            Some(entity) => entity,
            None => self.load_blob(blob, root, call)?,
        };
        let entity = Arc::new(entity);
        self.keys.push(Loaded { id: blob.id, entity: entity.clone() });
        if let Some(contexts) = contexts.filter(|_| crowded) {
            // More keys in turn than fit: this one will be evicted, too, so save it in the first round.
            self.save(&blob.id, &entity, contexts, call)?;
        }
        Ok(entity)
    }

    fn restore(
        &mut self,
        blob: &KeyBlob,
        name: &Name,
        contexts: &mut Contexts,
        call: &Call,
    ) -> Result<Option<Entity>, Fault> {
        let Some(context) = contexts.find(&blob.id, name) else { return Ok(None) };
        let load = ContextLoad { context: &context.bytes };
        match execute(&mut self.link, &load, &mut [], call) {
            Ok(handle) => Ok(Some(Entity::new(handle, context.name.clone()))),
            // The TPM was restarted since: all of them are void, the blobs are not.
            Err(fault)
                if matches!(
                    fault.kind(),
                    Trouble::Integrity | Trouble::Handle | Trouble::Reference | Trouble::Parameter
                ) =>
            {
                contexts.clear();
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    fn load_blob(
        &mut self,
        blob: &KeyBlob,
        root: impl FnOnce(&mut Self) -> Result<Pinned, Fault>,
        call: &Call,
    ) -> Result<Entity, Fault> {
        let parent = Entity::from(&root(self)?);
        let load = Load { parent: &parent, public: &blob.public, private: &blob.private };
        // The parent's authorization is empty: an unsalted session would prove and hide nothing.
        let salted = self.salted;
        match self.session.as_mut().filter(|session| salted && !session.has_ended()) {
            Some(session) => execute(&mut self.link, &load, &mut [Auth::hmac(session, &[])], call),
            None => execute(&mut self.link, &load, &mut [Auth::password(&[])], call),
        }
    }

    /// TPM2_ContextSave, once per key: the context can be loaded again and again.
    fn save(
        &mut self,
        id: &[u8; 16],
        entity: &Entity,
        contexts: &mut Contexts,
        call: &Call,
    ) -> Result<(), Fault> {
        if contexts.find(id, &entity.name).is_none() {
            let save = ContextSave { handle: entity.handle };
            let bytes = execute(&mut self.link, &save, &mut [], call)?;
            contexts.add(Context { id: *id, name: entity.name.clone(), bytes });
        }
        Ok(())
    }

    /// Evicts keys, least recently used first, until at most `most` are loaded; with `contexts` each
    /// is saved before.
    pub(super) fn shrink(
        &mut self,
        most: usize,
        mut contexts: Option<&mut Contexts>,
        call: &Call,
    ) -> Result<(), Fault> {
        while self.keys.len() > most {
            let key = self.keys.remove(0);
            let handle = key.entity.handle;
            if let Some(contexts) = contexts.as_deref_mut() {
                self.save(&key.id, &key.entity, contexts, call)?;
            }
            execute(&mut self.link, &FlushContext { handle }, &mut [], call)?;
        }
        Ok(())
    }

    /// Handles that a job left behind: neither our session, nor a loaded key, nor the root.
    pub(super) fn strays(&self) -> Vec<u32> {
        let mine = |handle: u32| {
            self.session.as_ref().is_some_and(|session| session.handle() == handle)
                || self.keys.iter().any(|key| key.entity.handle == handle)
                || self.root.as_ref().is_some_and(|root| root.handle() == handle)
        };
        self.link.held().iter().copied().filter(|handle| !mine(*handle)).collect()
    }

    /// Flushes these, but for `spared`. What is gone already is no error; a broken line is.
    pub(super) fn flush(&mut self, handles: &[u32], spared: &[u32]) {
        let call = Call::within(FAREWELL);
        for handle in handles.iter().copied().filter(|handle| !spared.contains(handle)) {
            if self.link.is_broken() {
                return;
            }
            // Twice, because what a code says of one command need not hold for the next; then it is
            // gone, or stays to whoever removes leftovers.
            for _ in 0..2 {
                let outcome = execute(&mut self.link, &FlushContext { handle }, &mut [], &call);
                if self.link.is_broken() {
                    return;
                }
                if outcome.is_ok() {
                    break;
                }
            }
            self.link.forget(handle);
        }
    }

    /// Flushes everything of ours, the youngest first; the connection can be used afterwards.
    pub(super) fn flush_all(&mut self, spared: &[u32]) {
        let mut all = self.link.held().to_vec();
        all.reverse();
        self.flush(&all, spared);
        self.session = None;
        self.keys.clear();
        self.root = self.root.take().filter(|root| !root.is_transient());
    }

    /// Forgets what was loaded, because the TPM has.
    pub(super) fn forget_all(&mut self) {
        for handle in self.link.held().to_vec() {
            self.link.forget(handle);
        }
        self.session = None;
        self.keys.clear();
        self.root = None;
    }

    /// Ends it: flushes what would stay (unless a resource manager does), then closes.
    pub(super) fn close(mut self, shape: Shape) {
        if shape != Shape::Managed {
            self.flush_all(&[]);
        }
    }

    /// Forgets it without any I/O: the descriptor is another process's, too.
    pub(super) fn leak(self) {
        Box::new(self.link).leak();
    }
}
