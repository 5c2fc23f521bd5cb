// Package mutant names bugs that are seeded on purpose: the safe option is set,
// and the code ignores it, in one line at the place where the rule is kept. They
// show that the harness finds what it claims to find (SCHEMES.md, "Seeded bugs").
//
// A node is given its mutants by its configuration (node.Config.Mutants). They
// exist under the build tag mutants only: without it a Set is empty, On is false
// for certain, and the compiler removes every line that asks.
package mutant

// Name is one mutant.
type Name uint8

// The mutants. What each does is in the registry.
const (
	TruncateToHighWatermark Name = iota
	TruncateOnce
	ExpansionAfterReply
	JoinAnyBrokerEpoch
	JoinFenced
	UncleanElection
	HighBeforeTruncation
	AckBeforeSync
	ZombieReads
	AckBeforeWrite
	AckByLeaderAlone
	HighFromOneFollower
	ShrinkBeforeReply
	EpochNotBumped
	LeadCommitsAll
	ReadBeyondHigh
	NoDivergenceCheck
	TruncateOneLess
	MinISRIgnored
	AppendThenRefuse
	TimeoutAcknowledged
	JoinBehind
	StayInSync
	ForgetInSync
	FetchAnyEpoch
	FollowerAckBeforeSync
	ReassignInSync
	ElectOutOfSync
	RetryTwice
	ForgetProducers
	ChecksumIgnored
	RecoverUnsynced
	LastReplicaStanding
	NoFence
	NoSkewMargin
	ConfirmBeforeCheck
	PromoteUnsynced
	RejoinKeeps
	MirrorsForgotten
	UnroutableConfirmed
	JoinGap
	SyncStateSetAfterReply
	ConfirmConnected
	LeadFromConfirmed
	BlindRestore
	SyncOfOne
	names // how many there are
)

// Info describes a mutant.
type Info struct {
	ID   string // in SCHEMES.md, or O and a number for those that are not in its list
	Name string // as in --set mutant=NAME
	// Doc is what the code does wrong, in one sentence.
	Doc string
	// Scheme is the replication scheme in which it is hunted.
	Scheme string
	// Clauses are those of the contract that it is expected to break.
	Clauses []string
	// Equivalent, where set, says why nothing that the contract promises breaks,
	// as far as is known: it is not hunted unless it is named.
	Equivalent string
	// Needs, where set, says what is missing to seed it: there is no such mutant yet.
	Needs string
	// Hunt is what plans must bring for the rule that it breaks to matter.
	Hunt Hunt
}

// Hunt is what of the plans of a mutant's hunts is not drawn. The zero value: all is
// drawn. The broker without the mutant is hunted with the same plans.
type Hunt struct {
	Options map[string]string // of the broker
	Faults  []string          // by their names
	Haze    string            // a fault that lies over all others, if it may
	Rate    float64           // messages per second
	Nodes   int               // how many there are
	When    string            // the event that is followed by a fault at once, again and again
	Then    string            // that fault, if it is not drawn
	// Estrange: a replica comes back while its leader no longer hears the metadata quorum.
	Estrange bool
}

// Drawn reports whether nothing is fixed.
func (h Hunt) Drawn() bool {
	return len(h.Options) == 0 && len(h.Faults) == 0 && h.Haze == "" && h.Rate == 0 && h.Nodes == 0 && h.When == "" && h.Then == "" && !h.Estrange
}
