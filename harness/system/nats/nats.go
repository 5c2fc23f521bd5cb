// Package nats puts NATS JetStream under test: servers as containers, clients by
// nats.go, of which each request is one message to one node. A queue is a stream
// with work-queue retention and one durable pull consumer; a log is a stream that
// keeps everything.
package nats

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/nemesis"
)

// System is NATS JetStream as a system under test.
type System struct{ system.Contained }

var (
	_ system.System   = System{}
	_ system.Preparer = System{}
)

// The workloads.
const (
	queueWorkload = "queue"
	logWorkload   = "log"
)

// Name implements system.System.
func (System) Name() string { return "nats" }

// Doc implements system.System.
func (System) Doc() string { return "NATS JetStream, built from its Go module or of any image" }

// Schemes implements system.System.
func (System) Schemes() []system.Scheme {
	s := system.Scheme{
		Name: "jetstream", Doc: "streams replicated by raft, acknowledged by a majority and synced to disk now and then", Authority: "raft",
		Election: "raft, among the replicas of each stream", Replicas: "1, 3 or 5", Factor: true,
	}
	for _, o := range options() {
		s.Options = append(s.Options, system.Option{Name: o.name, Doc: describe(o)})
	}
	return []system.Scheme{s}
}

func describe(o option) string { return fmt.Sprintf("%s (default %s)", o.doc, o.def) }

// Workloads implements system.System.
func (System) Workloads() []string { return []string{queueWorkload, logWorkload} }

// OptionList implements system.System.
func (System) OptionList() []system.Info {
	var infos []system.Info
	for _, o := range options() {
		infos = append(infos, system.Info{Name: o.name, Doc: describe(o)})
	}
	return infos
}

// Options implements system.System.
func (System) Options(spec system.Spec) map[string]string { return resolve(spec) }

// Validate implements system.System.
func (s System) Validate(spec system.Spec) error {
	if names := schemeNames(s); !slices.Contains(names, spec.Scheme) {
		return fmt.Errorf("system nats: unknown scheme %q; known schemes: %s", spec.Scheme, strings.Join(names, ", "))
	}
	if err := checkOptions(spec.Set); err != nil {
		return err
	}
	if n := resolve(spec).number(optReplicas); n > len(spec.Nodes) {
		return fmt.Errorf("option %s=%d: there are %d nodes; use --nodes %d or fewer replicas", optReplicas, n, len(spec.Nodes), n)
	}
	return nil
}

func schemeNames(s System) []string {
	var names []string
	for _, k := range s.Schemes() {
		names = append(names, k.Name)
	}
	return names
}

// Lacks implements system.System.
func (System) Lacks(_ system.Spec, step nemesis.Step) string {
	switch step.Fault {
	case "lock-remove":
		return "its nodes share no storage and take no lock"
	case "clock":
		return "its nodes go by the clock of the machine, which all containers share"
	case "membership":
		return "streams are created with their replicas, and the harness moves none"
	case "leadership":
		return "its leaders carry no epoch that every version tells, so that no move could be proven"
	case "upgrade", "downgrade":
		return "there is no second image of another version"
	}
	return ""
}

// Keys implements system.System: stream names.
func (System) Keys(spec system.Spec) []string {
	keys := make([]string, resolve(spec).number(optStreams))
	for i := range keys {
		keys[i] = "s" + strconv.Itoa(i)
	}
	return keys
}

// Queues implements system.System.
func (s System) Queues(spec system.Spec) []history.Queue {
	if spec.Workload != queueWorkload {
		return nil
	}
	var queues []history.Queue
	for _, key := range s.Keys(spec) {
		queues = append(queues, history.Queue{Key: key})
	}
	return queues
}

// electionTimeout is the longest that a follower waits for its leader before it stands
// for election: maxElectionTimeout in the server's raft.go, 4 to 9 s in every version
// that has been looked at (2.9.10 and 2.15.2). It cannot be configured.
const electionTimeout = 9 * time.Second

// Detection implements system.System: of raft's election timeout, and of three pings.
func (System) Detection(spec system.Spec) time.Duration {
	return max(electionTimeout, 3*resolve(spec).duration(optPing))
}

// Contract implements system.System. A publication is acknowledged (PubAck) when a
// majority of the replicas has written it to its log, which says nothing of the disk
// unless sync_interval is always. The definitions of streams and consumers lie there in
// the same way, so that a loss of power may take those as well.
func (System) Contract(spec system.Spec) history.Contract {
	v := resolve(spec)
	power, damage := faultsOf(spec)
	kept := !damage && (!power || v[optSync] == syncAlways)
	c := history.Contract{Expect: spec.Expect, Acknowledged: kept, Recovers: kept, Order: "none", Offsets: "global"}
	if spec.Workload == queueWorkload {
		c.Delivery, c.Redelivers = "at-least-once", true
		// A confirmed acknowledgement is in the log of the consumer's replicas. With one
		// replica the server writes the consumer's state in the background.
		c.Settled = kept && v.number(optReplicas) > 1
		return c
	}
	c.Order, c.AtMostOnce, c.CommittedReads, c.Monotonic = "partition", true, kept, kept
	return c
}

// faultsOf says whether a plan takes power, and whether it damages or takes away what
// disks hold.
func faultsOf(spec system.Spec) (power, damage bool) {
	look := func(fault, shape string) {
		switch fault {
		case "power":
			power = true
		case "wipe", "corrupt-file":
			damage = true
		case "restart":
			power = power || shape == "" || shape == string(nemesis.RestartPower)
			damage = damage || shape == "" || shape == string(nemesis.RestartWipe)
		}
	}
	if len(spec.Steps) > 0 {
		for _, s := range spec.Steps {
			look(s.Fault, string(s.Shape))
		}
		return power, damage
	}
	for _, f := range spec.Faults {
		name, shape, _ := strings.Cut(f, ":")
		look(name, shape)
	}
	return power, damage
}

// Prepare implements system.Preparer: it builds the image of the version.
func (System) Prepare(ctx context.Context, spec system.Spec, progress io.Writer) error {
	if spec.Image != "" {
		return nil
	}
	_, err := docker.BuildSystemImage(ctx, Image(resolve(spec)[optVersion]), progress)
	return err
}
