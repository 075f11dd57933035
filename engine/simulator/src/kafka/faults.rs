//! What goes wrong with a cluster, one by one or as a seed says, and how it is mended.

use super::{Cluster, Inside, client::say_all_down};

impl Cluster {
    /// Makes a topic, as an administrator may; false when it is there.
    pub fn create_topic(&self, topic: &str, partitions: usize) -> bool {
        self.inside().topics.create(topic, partitions)
    }

    /// A node stops: its connections end. What had arrived in them is worked on as far as `done` says, and not answered.
    pub fn down(&self, node: usize, done: usize) {
        let mut inside = self.inside();
        inside.cut(node, done);
        inside.nodes[node].is_down = true;
        let is_all = inside.nodes.iter().all(|node| node.is_down);
        for owned in inside.producers.iter().filter(|_| is_all) {
            say_all_down(&owned.connected, &owned.status);
        }
    }

    /// A node starts again.
    pub fn up(&self, node: usize) {
        self.inside().nodes[node].is_down = false;
    }

    /// A node does nothing any more and keeps its connections, or goes on.
    pub fn stall(&self, node: usize, is_stalled: bool) {
        self.inside().nodes[node].is_stalled = is_stalled;
    }

    /// All connections to a node end. Of what was sent on each the first `done` requests are worked on, and not answered.
    pub fn cut(&self, node: usize, done: usize) {
        self.inside().cut(node, done);
    }

    /// Deletes a topic with all that it holds.
    pub fn delete_topic(&self, topic: &str) -> bool {
        self.inside().topics.topics.remove(topic).is_some()
    }

    /// Adds partitions to a topic.
    pub fn add_partitions(&self, topic: &str, more: usize) {
        let mut inside = self.inside();
        let nodes = inside.nodes();
        if let Some(topic) = inside.topics.topics.get_mut(topic) {
            topic.grow(topic.partitions.len() + more, nodes);
        }
    }

    /// Sets `max.message.bytes` of a topic.
    pub fn set_limit(&self, topic: &str, bytes: usize) {
        if let Some(topic) = self.inside().topics.topics.get_mut(topic) {
            topic.message_bytes_max = bytes;
        }
    }

    /// Sets `max.message.bytes` of topics that are made from now on.
    pub fn set_default_limit(&self, bytes: usize) {
        self.inside().topics.message_bytes_max = bytes;
    }

    /// Whether clients may ask for the topics' limits (`DESCRIBE_CONFIGS`).
    pub fn tell_limits(&self, tells: bool) {
        self.inside().tells_limits = tells;
    }

    /// Sets `message.max.bytes` of clients made from now on.
    pub fn set_client_limit(&self, bytes: usize) {
        self.inside().client_message_bytes_max = bytes;
    }

    /// Refuses records with this key as invalid; `names_them` as brokers from 2.4 on do.
    pub fn refuse_key(&self, key: &[u8], names_them: bool) {
        let mut inside = self.inside();
        inside.topics.invalid.insert(key.to_vec());
        inside.topics.names_invalid = names_them;
    }

    /// The brokers fail, for a reason that nobody says (`UNKNOWN_SERVER_ERROR`), at each batch with this key.
    pub fn poison(&self, key: &[u8]) {
        self.inside().topics.poison = Some(key.to_vec());
    }

    /// Takes all keys again.
    pub fn refuse_no_key(&self) {
        self.inside().topics.invalid.clear();
    }

    /// Fewer replicas are in sync than `min.insync.replicas`, noticed before the append or after it; `None`: enough.
    pub fn too_few_in_sync(&self, after_append: Option<bool>) {
        self.inside().topics.too_few_in_sync = after_append;
    }

    /// Another node leads a partition.
    pub fn move_leader(&self, topic: &str, partition: usize, node: usize) {
        let mut inside = self.inside();
        let topic = inside.topics.topics.get_mut(topic);
        if let Some(partition) = topic.and_then(|topic| topic.partitions.get_mut(partition)) {
            partition.leader = node;
        }
    }

    /// Retention: a partition's first records go, so many.
    pub fn retain(&self, topic: &str, partition: usize, gone: usize) {
        let mut inside = self.inside();
        let topic = inside.topics.topics.get_mut(topic);
        if let Some(partition) = topic.and_then(|topic| topic.partitions.get_mut(partition)) {
            let gone = gone.min(partition.records.len());
            partition.records.drain(..gone);
            partition.first += gone as u64;
        }
    }

    /// Breaks something; says what.
    pub fn fault(&self, rng: &mut fastrand::Rng) -> String {
        let nodes = self.inside().nodes();
        let node = rng.usize(..nodes);
        let done = rng.usize(..4);
        let topics = self.topics();
        let topic = topics.get(rng.usize(..topics.len().max(1))).cloned().unwrap_or_default();
        let partitions = self.inside().topics.topics.get(&topic).map_or(0, |topic| topic.partitions.len());
        let partition = rng.usize(..partitions.max(1));
        match rng.u32(..16) {
            0 | 1 => {
                self.down(node, done);
                format!("kafka: node {node} is down, {done} of its requests done")
            }
            2 | 3 => {
                self.up(node);
                self.stall(node, false);
                format!("kafka: node {node} is up")
            }
            4 => {
                self.stall(node, true);
                format!("kafka: node {node} stalls")
            }
            5..=7 => {
                self.cut(node, done);
                format!("kafka: connections to {node} are cut, {done} of their requests done")
            }
            8 => {
                let after = rng.choice([None, Some(false), Some(true)]).flatten();
                self.too_few_in_sync(after);
                format!("kafka: too few in sync: {after:?}")
            }
            9 | 10 => {
                self.move_leader(&topic, partition, node);
                format!("kafka: {node} leads {topic} {partition}")
            }
            11 => {
                let bytes = *rng.choice(&[600, 1200, 5000, 1_048_588]).unwrap_or(&5000);
                self.set_limit(&topic, bytes);
                format!("kafka: {topic} has max.message.bytes = {bytes}")
            }
            12 => {
                let gone = rng.usize(..20);
                self.retain(&topic, partition, gone);
                format!("kafka: retention takes {gone} of {topic} {partition}")
            }
            13 => {
                self.add_partitions(&topic, 1);
                format!("kafka: {topic} has a partition more")
            }
            14 => {
                self.delete_topic(&topic);
                format!("kafka: {topic} is deleted")
            }
            _ => {
                let tells = rng.bool();
                self.tell_limits(tells);
                format!("kafka: limits are told: {tells}")
            }
        }
    }

    /// Everything that mends by itself is mended. A topic that was deleted stays deleted, a limit stays as it was set.
    pub fn heal(&self) {
        let mut inside = self.inside();
        for node in &mut inside.nodes {
            (node.is_down, node.is_stalled) = (false, false);
        }
        inside.topics.too_few_in_sync = None;
    }
}

impl Inside {
    fn cut(&mut self, node: usize, done: usize) {
        let works = self.works(node);
        let mut parted = Vec::new();
        let mut connections = std::mem::take(&mut self.connections);
        for connection in connections.iter_mut().filter(|one| one.node == node) {
            let arrived = if works { done.min(connection.requests.len()) } else { 0 };
            for (_, batch) in connection.requests.drain(..arrived) {
                // Its answer is lost.
                let _ = self.topics.produce(node, &batch);
            }
            connection.requests.clear();
            parted.extend(connection.producer);
        }
        self.connections = connections;
        for number in parted {
            self.part(number, node);
        }
    }
}
