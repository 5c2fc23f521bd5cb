//go:build mutants

package mutant

// registry describes every mutant.
var registry = [names]Info{
	TruncateToHighWatermark: {
		ID: "M1", Name: "truncate-to-high-watermark", Scheme: "isr", Clauses: []string{"acknowledged-survive", "replicas-agree", "committed-reads"},
		Doc:  "A replica that begins to follow cuts its log to the high watermark that it knows (Kafka before KIP-101).",
		Hunt: Hunt{When: "leader-change", Haze: "delay", Faults: []string{"kill"}},
	},
	TruncateOnce: {
		ID: "M2", Name: "truncate-once", Scheme: "isr", Clauses: []string{"replicas-agree"},
		Doc: "A follower cuts its log, once, to where the leader's part of it ends at the latest, whatever epochs it holds below that (Kafka before KIP-279).",
	},
	ExpansionAfterReply: {
		ID: "M3", Name: "expansion-after-reply", Scheme: "isr", Clauses: []string{"acknowledged-survive"},
		Doc:  "A replica that joins the in-sync set counts for the high watermark only once the controller has answered.",
		Hunt: Hunt{Estrange: true},
	},
	JoinAnyBrokerEpoch: {
		ID: "M4", Name: "join-any-broker-epoch", Scheme: "isr", Clauses: []string{"acknowledged-survive"},
		Doc:        "Neither the leader nor the controller compares the broker epoch of a replica that joins the in-sync set.",
		Equivalent: "with fsync=always a new incarnation has everything that the former one confirmed; it shows where a disk is lost in the milliseconds in which its replica's joining is decided, and both other copies fail before it has caught up, of which the contract promises nothing",
	},
	JoinFenced: {
		ID: "M5", Name: "join-fenced", Scheme: "isr", Clauses: []string{"acknowledged-survive"},
		Doc:        "A fenced or leaving replica may join the in-sync set.",
		Equivalent: "the high watermark waits for such a member as for any other, and only unfenced ones are elected",
	},
	LastReplicaStanding: {
		ID: "M6", Name: "last-replica-standing", Scheme: "isr", Clauses: []string{"acknowledged-survive"},
		Doc:  "There are no eligible leader replicas: the last member of an in-sync set stays in it and is elected again, whatever became of its disk (Kafka before KIP-966).",
		Hunt: Hunt{Faults: []string{"partition:isolate-leader"}},
	},
	UncleanElection: {
		ID: "M7", Name: "unclean-election", Scheme: "isr", Clauses: []string{"acknowledged-survive"},
		Doc: "A replica outside the in-sync set is elected although unclean.leader.election.enable is false.",
	},
	HighBeforeTruncation: {
		ID: "M8", Name: "high-watermark-before-truncation", Scheme: "isr", Clauses: []string{"acknowledged-survive", "committed-reads"},
		Doc:  "A leader counts a diverged follower's log end for the high watermark before that follower has truncated.",
		Hunt: Hunt{When: "leader-change", Then: "kill", Haze: "delay", Rate: 300, Faults: []string{"leadership:transfer"}},
	},
	ConfirmBeforeCheck: {
		ID: "M9", Name: "confirm-on-mirror-death-before-pause", Scheme: "mirrored", Clauses: []string{"acknowledged-survive"},
		Doc:  "A master confirms what only dead mirrors lack before it looks whether it is in the minority, although confirm.on.mirror.death is after-check.",
		Hunt: Hunt{Options: map[string]string{"cluster_partition_handling": "pause_minority", "confirm.on.mirror.death": "after-check"}, Faults: []string{"partition:isolate-leader"}},
	},
	PromoteUnsynced: {
		ID: "M10", Name: "promote-unsynchronised-mirror", Scheme: "mirrored", Clauses: []string{"acknowledged-survive"},
		Doc:  "An unsynchronised mirror is promoted although ha-promote-on-failure is when-synced.",
		Hunt: Hunt{Options: map[string]string{"ha-sync-mode": "manual"}, Faults: []string{"kill"}},
	},
	RejoinKeeps: {
		ID: "M11", Name: "rejoining-mirror-keeps-content", Scheme: "mirrored", Clauses: []string{"replicas-agree", "acknowledged-survive"},
		Doc: "A mirror that comes back keeps what it has, and goes on behind it.",
	},
	MirrorsForgotten: {
		ID: "M12", Name: "mirror-list-cleared", Scheme: "mirrored", Clauses: []string{"recovers", "acknowledged-survive"},
		Doc: "A mirror that is promoted forgets the other mirrors, and takes no new ones.",
	},
	SyncStateSetAfterReply: {
		ID: "CB6", Name: "sync-state-set-after-reply", Scheme: "combined", Clauses: []string{"acknowledged-survive"},
		Doc:  "A slave that joins the in-sync set counts for what is confirmed only once the controller has answered (RocketMQ issue 5663).",
		Hunt: Hunt{Estrange: true},
	},
	ConfirmConnected: {
		ID: "CB7", Name: "confirm-offset-of-connected", Scheme: "combined", Clauses: []string{"committed-reads", "acknowledged-survive"},
		Doc: "What is confirmed is what the connected slaves of the in-sync set have, in a partition too (RocketMQ issue 6662).",
	},
	LeadFromConfirmed: {
		ID: "CB8", Name: "master-begins-at-confirmed-offset", Scheme: "combined", Clauses: []string{"acknowledged-survive", "committed-reads"},
		Doc: "A new master goes on from the confirmed offset that it knows, and gives offsets again that stand behind it (RocketMQ issue 7689).",
	},
	BlindRestore: {
		ID: "M15", Name: "blind-restore", Scheme: "takeover", Clauses: []string{"acknowledged-survive"},
		Doc:  "The main queue takes over again without what the backup took meanwhile, although restore is resync.",
		Hunt: Hunt{Options: map[string]string{"takeover.fencing": "none", "data": "sync", "restore": "resync"}, Faults: []string{"kill"}},
	},
	AckBeforeSync: {
		ID: "M16", Name: "ack-before-fsync", Scheme: "single", Clauses: []string{"acknowledged-survive"},
		Doc: "With fsync=always, what is written counts as durable before it is synced.",
	},
	UnroutableConfirmed: {
		ID: "M17", Name: "unroutable-confirmed", Scheme: "classic", Clauses: []string{"acknowledged-survive"},
		Doc: "A message that reaches no queue is confirmed although it is mandatory.",
	},
	JoinGap: {
		ID: "M27", Name: "snapshot-stream-gap", Scheme: "multimaster", Clauses: []string{"replicas-agree"},
		Doc:  "A node that joins is sent what is on disk, and what is written from now on; what is between the two is left out, and the node takes what comes next although there is a gap before it.",
		Hunt: Hunt{Options: map[string]string{"fsync": "always", "partitions": "2"}, Faults: []string{"kill"}, Haze: "disk-slow", Rate: 300},
	},
	ZombieReads: {
		ID: "M24", Name: "zombie-leader-reads", Scheme: "isr", Clauses: []string{"committed-reads"},
		Doc: "A deposed leader serves consumers that believe in a newer epoch, up to its log's end.",
	},
	AckBeforeWrite: {
		ID: "O1", Name: "ack-before-write", Scheme: "single", Clauses: []string{"acknowledged-survive", "fresh-reads"},
		Doc: "A write is acknowledged as soon as its append is issued.",
	},
	AckByLeaderAlone: {
		ID: "O2", Name: "ack-by-leader-alone", Scheme: "isr", Clauses: []string{"acknowledged-survive"},
		Doc: "A write with acks=all is answered when the leader alone has the record.",
	},
	HighFromOneFollower: {
		ID: "O3", Name: "high-watermark-from-one-follower", Scheme: "isr", Clauses: []string{"acknowledged-survive"},
		Doc: "The high watermark runs over the leader and its last in-sync follower only: the minimum is begun anew for each.",
	},
	ShrinkBeforeReply: {
		ID: "O4", Name: "shrink-before-reply", Scheme: "isr", Clauses: []string{"acknowledged-survive"},
		Doc: "A leader counts on a smaller in-sync set before the controller has accepted it.",
	},
	EpochNotBumped: {
		ID: "O5", Name: "epoch-not-bumped", Scheme: "isr", Clauses: []string{"one-leader-per-epoch"},
		Doc: "An election does not raise the leader epoch.",
	},
	LeadCommitsAll: {
		ID: "O6", Name: "new-leader-commits-all", Scheme: "isr", Clauses: []string{"committed-reads"},
		Doc:  "A new leader takes its whole log for committed.",
		Hunt: Hunt{When: "leader-change", Then: "partition", Faults: []string{"kill"}},
	},
	ReadBeyondHigh: {
		ID: "O7", Name: "read-beyond-high-watermark", Scheme: "isr", Clauses: []string{"committed-reads"},
		Doc: "Consumers are served up to the leader's log end.",
	},
	NoDivergenceCheck: {
		ID: "O8", Name: "no-divergence-check", Scheme: "isr", Clauses: []string{"replicas-agree"},
		Doc: "A leader does not compare the epoch of a follower's last record with its own log.",
	},
	TruncateOneLess: {
		ID: "O9", Name: "truncate-one-less", Scheme: "isr", Clauses: []string{"replicas-agree"},
		Doc: "A follower that diverged keeps one record too many, and takes the divergence for settled.",
	},
	MinISRIgnored: {
		ID: "O10", Name: "min-insync-ignored", Scheme: "isr", Clauses: []string{"enough-in-sync", "acknowledged-survive"},
		Doc: "A leader acts as if min.insync.replicas were 1.",
	},
	AppendThenRefuse: {
		ID: "O11", Name: "append-then-refuse", Scheme: "isr", Clauses: []string{"failed-never-visible"},
		Doc: "A write is appended before NOT_ENOUGH_REPLICAS refuses it.",
	},
	TimeoutAcknowledged: {
		ID: "O12", Name: "timeout-acknowledged", Scheme: "isr", Clauses: []string{"acknowledged-survive"},
		Doc: "A write whose time is over is acknowledged instead of answered REQUEST_TIMED_OUT.",
	},
	JoinBehind: {
		ID: "O13", Name: "join-behind", Scheme: "isr", Clauses: []string{"acknowledged-survive"},
		Doc:  "A replica joins the in-sync set before it has reached the high watermark.",
		Hunt: Hunt{When: "isr-expand", Faults: []string{"kill", "partition:isolate-one"}},
	},
	StayInSync: {
		ID: "O14", Name: "new-incarnation-stays-in-sync", Scheme: "isr", Clauses: []string{"replicas-agree", "acknowledged-survive", "recovers"},
		Doc:  "A broker that registers again stays in its in-sync sets and goes on leading in the same epoch.",
		Hunt: Hunt{Options: map[string]string{"fsync": "never"}, Faults: []string{"restart:power", "power"}},
	},
	ForgetInSync: {
		ID: "O15", Name: "in-sync-set-forgotten", Scheme: "isr", Clauses: []string{"acknowledged-survive"},
		Doc: "With a new registration of a replica the in-sync set falls back to all replicas, as if its changes had not been kept.",
	},
	FetchAnyEpoch: {
		ID: "O16", Name: "fetch-any-epoch", Scheme: "isr", Clauses: []string{"replicas-agree", "acknowledged-survive"},
		Doc:        "Leader and follower do not compare leader epochs in replication.",
		Equivalent: "an answer belongs to the one fetch under way, a fetch names the epoch of its last record, and a follower takes no record of an epoch above its own: two other guards refuse all that this one would",
	},
	FollowerAckBeforeSync: {
		ID: "O17", Name: "follower-confirms-before-fsync", Scheme: "isr", Clauses: []string{"acknowledged-survive"},
		Doc:  "A follower confirms records that are not durable yet.",
		Hunt: Hunt{Options: map[string]string{"fsync": "always"}, Faults: []string{"power"}, Haze: "disk-slow"},
	},
	ReassignInSync: {
		ID: "O20", Name: "reassign-in-sync", Scheme: "isr", Clauses: []string{"acknowledged-survive"},
		Doc:  "A replica that a reassignment brings counts as in sync from its begin, before it has caught up.",
		Hunt: Hunt{Nodes: 5, Options: map[string]string{"replica.fetch.max.bytes": "1", "replication.factor": "3", "partitions": "6"}, Faults: []string{"membership:remove"}, When: "follower-change", Then: "kill"},
	},
	ElectOutOfSync: {
		ID: "O21", Name: "preferred-leader-out-of-sync", Scheme: "isr", Clauses: []string{"acknowledged-survive", "recovers"},
		Doc: "The leadership is given to the preferred leader although it is not in the in-sync set.",
	},
	RetryTwice: {
		ID: "M23", Name: "retry-without-idempotence", Scheme: "isr", Clauses: []string{"at-most-once"},
		Doc: "What an idempotent producer sends again is appended again.",
	},
	ForgetProducers: {
		ID: "O18", Name: "idempotence-lost-on-fail-over", Scheme: "isr", Clauses: []string{"at-most-once"},
		Doc: "A new leader does not know what idempotent producers sent to the former ones.",
	},
	ChecksumIgnored: {
		ID: "M25", Name: "checksum-not-verified", Scheme: "isr", Clauses: []string{"only-what-was-sent"},
		Doc:  "Followers do not verify what they replicate, and neither do reads of the log, which alone would keep what is damaged from every follower.",
		Hunt: Hunt{Faults: []string{"corrupt-file:bit-flip", "kill"}},
	},
	RecoverUnsynced: {
		ID: "O19", Name: "recovery-without-sync", Scheme: "single", Clauses: []string{"committed-reads", "recovers"},
		Doc:  "What a killed process left in the page cache counts as durable at the next start, and is not synced.",
		Hunt: Hunt{Options: map[string]string{"fsync": "always"}, Faults: []string{"kill"}, When: "start", Then: "power"},
	},
	SyncOfOne: {
		ID: "M18", Name: "sync-of-one-copy", Scheme: "combined", Clauses: []string{"acknowledged-survive"},
		Doc: "A synchronous master waits for no slave: it answers a write that it alone has.",
	},
	NoFence: {
		ID: "M13", Name: "shared-without-fence", Scheme: "shared", Clauses: []string{"acknowledged-survive", "committed-reads"},
		Doc: "With a fencing token and a keep-alive period, the owner of a shared log neither reads the token again before it acknowledges nor looks whether it still has the lock.",
	},
	NoSkewMargin: {
		ID: "M14", Name: "lease-without-margin", Scheme: "shared", Clauses: []string{"acknowledged-survive", "committed-reads", "recovers"},
		Doc: "A lease of another is taken as soon as it is over by the own clock, and an owner does not stop when its own is, whatever the margin for wrong clocks is.",
		Hunt: Hunt{
			Options: map[string]string{"locker": "lease", "fencing": "none", "lease.skew.margin.ms": "600", "lockAcquireSleepInterval": "500", "lockKeepAlivePeriod": "400"},
			Faults:  []string{"clock:skew"},
		},
	},
}

// unseeded are those of SCHEMES.md for which the broker has no place yet.
var unseeded = []Info{
	{ID: "M19", Name: "offsets-not-replicated", Scheme: "isr", Doc: "Offsets of consumer groups are not replicated, or fall back.", Needs: needsGroups},
	{ID: "M20", Name: "one-status-for-all-groups", Scheme: "isr", Doc: "A message has one status for all groups.", Needs: needsGroups},
	{ID: "M21", Name: "in-flight-never-expires", Scheme: "quorum", Doc: "What a lost consumer was given is never given again.", Needs: needsQueues},
	{ID: "M22", Name: "commit-before-processing", Scheme: "isr", Doc: "A consumer's offset is committed before it has processed the message.", Needs: needsGroups},
	{ID: "M26", Name: "union-without-tombstones", Scheme: "multimaster", Doc: "The union of sides that heal brings back what was consumed.", Needs: needsQueues},
}

const (
	needsGroups = "consumer groups: the broker keeps no offsets of consumers"
	needsQueues = "queue operations: nothing in a log is consumed"
)
