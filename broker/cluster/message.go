package cluster

// RaftMessage carries one marshalled raftpb.Message. It holds bytes, never the
// structure, so that nodes of one process share no memory.
type RaftMessage struct {
	Data []byte
}

// Heartbeat is what a broker tells the controller (the raft leader) every BrokerHeartbeat.
type Heartbeat struct {
	Incarnation string
	Epoch       int64  // broker epoch of its registration
	Applied     uint64 // raft index up to which it applied the metadata
	Leave       bool   // it wants a controlled shutdown
}

// HeartbeatReply answers a Heartbeat.
type HeartbeatReply struct {
	Epoch int64 // that of the heartbeat
	// Stale: the epoch is not the registered one; the broker has to register again.
	Stale bool
	// ShutdownReady: the broker leads nothing that another could lead, and every live broker knows it.
	ShutdownReady bool
}
