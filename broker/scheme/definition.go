package scheme

import (
	"fmt"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/options"
)

// Metadata is who tells a scheme's nodes what there is and who leads.
type Metadata string

// The authorities.
const (
	Raft  Metadata = "raft"  // the metadata quorum
	Peers Metadata = "peers" // each node's own view of the others
)

// Election is what the metadata quorum does about a partition's leader.
type Election string

// The elections.
const (
	InSync   Election = "in-sync"  // it elects one of the in-sync set
	Fixed    Election = "fixed"    // one replica leads, or nobody, until an operator promotes another
	Replicas Election = "replicas" // the replicas elect among themselves and report
	Lock     Election = "lock"     // whoever holds a lock leads, and each node shows its own view of it
)

// Placement is how many replicas a partition has.
type Placement string

// The placements.
const (
	One    Placement = "one"
	Factor Placement = "replication.factor"
	All    Placement = "all"
	Named  Placement = "named"
)

// Count is the number of replicas on so many nodes.
func (p Placement) Count(o options.Values, nodes int) int {
	switch p {
	case One:
		return 1
	case All:
		return nodes
	}
	return min(o.Int("replication.factor"), nodes)
}

// Message is a message type that replicas of a scheme send each other. Number is
// its kind on the wire: it never changes, and no other type has it.
type Message struct {
	Number uint8
	Type   broker.Message // a zero value; a pointer where pointers are sent
}

// Definition is everything that the rest of the broker and the harness know of a
// scheme. A scheme is its package with a Definition, its page in docs/schemes, and
// its line in package schemes.
type Definition struct {
	Name     string
	Doc      string // one line
	New      Factory
	Metadata Metadata
	Election Election // by default
	Replicas Placement
	// Copies is the number of replicas on so many nodes, where options of the scheme
	// decide it and not Replicas alone. Nil: they do not.
	Copies func(o options.Values, nodes int) int
	// InSync: the scheme keeps an in-sync set, of which min.insync.replicas says how
	// large it has to be.
	InSync bool
	// Shared: there is one log, on a storage device that all nodes share. The machine's
	// host is a SharedHost.
	Shared bool
	// Moves: replicas can be given to other nodes while the partition is in use.
	Moves bool
	// Local: offsets belong to a node. Each answers for its own log, and the log of the
	// partition is all of them together.
	// Nil: they do not.
	Local func(options.Values) bool
	// Elects is who makes leaders under these options. Nil: always Election.
	Elects func(options.Values) Election
	// Eligible reports whether the metadata quorum keeps eligible leader replicas
	// (KIP-966). Nil: it does not.
	Eligible func(options.Values) bool
	// Options are the scheme's own. Draw, in each, is what random runs choose from.
	Options []options.Option
	// Authority is who tells under these options. Nil: always Metadata.
	Authority func(options.Values) Metadata
	// Also are options of other schemes that it has, too.
	Also []options.Option
	// Unclean reports whether its options allow the metadata quorum to elect outside the
	// in-sync set. Nil: unclean.leader.election.enable alone does.
	Unclean func(options.Values) bool
	// Check finds contradictions between options. Nil: there are none.
	Check    func(options.Values) error
	Messages []Message
	// Detection is the slowest time after which a failure is noticed and gone over,
	// where it can exceed broker.session.timeout.ms. Nil: it cannot.
	Detection func(options.Values) time.Duration
	// Promise says what holds under the planned faults.
	Promise func(options.Values, Faults) Promise
	// Hunted are the values of its options with which random runs look for losses that
	// are none of its claims, and Survived the faults that they draw. Nil: those that
	// they choose, and all.
	Hunted   map[string]string
	Survived []string
}

// ElectionUnder is who makes leaders under these options.
func (d Definition) ElectionUnder(o options.Values) Election {
	if d.Elects != nil {
		return d.Elects(o)
	}
	return d.Election
}

// MetadataUnder is the authority under these options.
func (d Definition) MetadataUnder(o options.Values) Metadata {
	if d.Authority != nil {
		return d.Authority(o)
	}
	return d.Metadata
}

// Validate names what a definition lacks.
func (d Definition) Validate() error {
	switch {
	case d.Name == "" || d.Doc == "":
		return fmt.Errorf("scheme %q has no name or no line about it", d.Name)
	case d.New == nil || d.Promise == nil:
		return fmt.Errorf("scheme %s has no factory or promises nothing", d.Name)
	case !slices.Contains([]Metadata{Raft, Peers}, d.Metadata):
		return fmt.Errorf("scheme %s has unknown authority %q", d.Name, d.Metadata)
	case !slices.Contains([]Election{InSync, Fixed, Replicas, Lock}, d.Election):
		return fmt.Errorf("scheme %s has unknown election %q", d.Name, d.Election)
	case !slices.Contains([]Placement{One, Factor, All, Named}, d.Replicas):
		return fmt.Errorf("scheme %s has unknown placement %q", d.Name, d.Replicas)
	}
	for _, o := range d.Options {
		if o.Owner != "scheme "+d.Name {
			return fmt.Errorf("option %s of scheme %s has owner %q", o.Name, d.Name, o.Owner)
		}
	}
	return nil
}

// Promise is what a scheme promises under its options and the planned faults. The
// fields mean what those of the history's contract mean.
type Promise struct {
	Acknowledged   bool // acknowledged messages survive
	CommittedReads bool // a record is delivered only once it can no longer be lost
	Monotonic      bool // a consumer's polls of one leader epoch never go back nor jump
	Fresh          bool // a read that begins after an acknowledgement sees it
	Linearizable   bool // appends are linearizable, reads a consistent prefix
	Recovers       bool // progress again once every fault is healed
	AtMostOnce     bool // a value stands at one offset at most, if it was sent once
	Epochs         bool // one epoch has one leader
	PerReplica     bool // replicas are compared
	Order          string
	Offsets        string
	MinInSync      int // nothing is acknowledged while fewer replicas are in sync
}

// Loss is one planned fault that takes away or damages what disks hold.
type Loss struct {
	Kind LossKind
	// Nodes is how many it hits at once, all where that is not known.
	Nodes int
	// Alone: no other fault is on the cluster from a detection time before it until
	// it is healed.
	Alone bool
	// Down is how many nodes may go down out of order around it, itself included, from
	// when all were in sync until they are again: each as often as a fault hits it.
	Down int
}

// LossKind is how a disk's contents go.
type LossKind uint8

// The kinds of loss.
const (
	LostDisk   LossKind = iota // wiped, damaged, or set back
	LostPower                  // what was not synced
	LostMember                 // the node leaves for good, in order
)

// Faults sums up what is planned. It is what a promise may depend on.
type Faults struct {
	Nodes    int // of the cluster
	Replicas int // of a partition
	// Planned: times and targets are known. Otherwise the faults are named only, and
	// losses have neither Alone nor Down.
	Planned bool
	Losses  []Loss
	// How many faults of each kind there are.
	Deaths  int // processes ended out of order; losses among them count too
	Stops   int // processes stopped in order
	Pauses  int
	Cuts    int // connections between nodes cut, wholly or in part
	Slow    int // links delayed, lossy or throttled, disks slow
	Disks   int // disks full or failing; such deaths count too
	Leaders int // leadership moved by an operator
	Clocks  int // clocks set wrong by a second or more, or at a wrong rate
	Skews   int // clocks set wrong by less
	Locks   int // locks taken from their owners
	// Other is how many faults there are that are of none of these kinds and may end
	// processes or hold them up.
	Other int
	// Ended is how many processes end, in order or not: the number of nodes where times and
	// targets are not known.
	Ended int
}

// Lost gives the losses without those that take nothing of importance: a power loss
// where logs are made durable before they are acknowledged, and a member that leaves
// in order, which hands over before (Leaves).
func (f Faults) Lost(o options.Values) []Loss {
	synced := o.String("fsync") == "always"
	return slices.DeleteFunc(slices.Clone(f.Losses), func(l Loss) bool {
		return l.Kind == LostPower && synced || l.Kind == LostMember
	})
}

// Leaves reports whether a member leaves for good, with all that it alone has.
func (f Faults) Leaves() bool {
	return slices.ContainsFunc(f.Losses, func(l Loss) bool { return l.Kind == LostMember })
}
