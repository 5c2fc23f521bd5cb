package harness

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/workloads"
)

// Script replaces a workload's own choices by written ones: these clients do
// these operations, at these times. `faultline shrink` writes it.
type Script struct {
	Clients []ScriptClient `yaml:"clients"`
	Ops     []ScriptOp     `yaml:"ops"`
}

// ScriptClient is one client of a script.
type ScriptClient struct {
	Name   string `yaml:"name"`
	Role   string `yaml:"role"`             // producer or poller
	Pinned string `yaml:"pinned,omitempty"` // the node whose metadata alone it believes; empty: follows the newest leader
	Loyal  bool   `yaml:"loyal,omitempty"`  // it sends everything to the node that it is pinned to

	Idempotent bool `yaml:"idempotent,omitempty"` // a producer that numbers what it sends, and sends it again
}

// ScriptOp is one operation. A client does its operations in their order, each
// at its time or as soon as it is free after it.
type ScriptOp struct {
	At     time.Duration `yaml:"at"` // from the begin of the baseline
	Client string        `yaml:"client"`
	Key    int32         `yaml:"key"` // partition
}

// How a scripted poll asks, as the workload log does.
const (
	scriptPollBytes = 1 << 20
	scriptPollWait  = 100 * time.Millisecond
)

// validate refuses what could not be run.
func (s *Script) validate(nodes []string, keys int) error {
	names := map[string]bool{}
	for _, c := range s.Clients {
		switch {
		case c.Name == "" || names[c.Name]:
			return fmt.Errorf("script: client name %q is empty or given twice", c.Name)
		case c.Role != "producer" && c.Role != "poller":
			return fmt.Errorf("script: client %s has role %q; known: producer, poller", c.Name, c.Role)
		case c.Pinned != "" && !slices.Contains(nodes, c.Pinned):
			return fmt.Errorf("script: client %s is pinned to %q, which is none of the nodes", c.Name, c.Pinned)
		case c.Loyal && c.Pinned == "":
			return fmt.Errorf("script: client %s is loyal and pinned to no node", c.Name)
		case c.Idempotent && c.Role != "producer":
			return fmt.Errorf("script: client %s is idempotent and no producer", c.Name)
		}
		names[c.Name] = true
	}
	if len(s.Clients) == 0 {
		return errors.New("script: it has no client")
	}
	for i, op := range s.Ops {
		switch {
		case !names[op.Client]:
			return fmt.Errorf("script: operation %d is of client %q, which the script does not name", i, op.Client)
		case op.Key < 0 || int(op.Key) >= keys:
			return fmt.Errorf("script: operation %d is on partition %d; there are %d, from 0", i, op.Key, keys)
		case op.At < 0:
			return fmt.Errorf("script: operation %d is at %s, before the run", i, op.At)
		}
	}
	return nil
}

// clients returns the script's clients with their generators.
func (s *Script) clients(nodes []string, size int) []workloads.ClientSpec {
	specs := make([]workloads.ClientSpec, len(s.Clients))
	for i, c := range s.Clients {
		g := &scripted{id: int32(i), sends: c.Role == "producer", size: max(size, workloads.MinPayload), next: map[int32]position{}}
		for _, op := range s.Ops {
			if op.Client == c.Name {
				g.ops = append(g.ops, op)
			}
		}
		specs[i] = workloads.ClientSpec{Name: c.Name, Role: c.Role, Pinned: slices.Index(nodes, c.Pinned), Loyal: c.Loyal, Idempotent: c.Idempotent, Gen: g}
	}
	return specs
}

// scripted does the operations of one client. A poll reads on where the last one
// of its partition ended, and moves only where the node says that this is
// outside its log.
type scripted struct {
	id    int32
	sends bool
	size  int
	ops   []ScriptOp

	started bool
	start   time.Duration
	done    int
	next    map[int32]position
}

type position struct {
	from  int64
	moved bool
}

// Next implements workloads.Generator.
func (g *scripted) Next(now time.Duration, last *workloads.Result) workloads.Step {
	if !g.started {
		g.started, g.start = true, now
	}
	if last != nil && !g.sends {
		g.learn(last)
	}
	if g.done == len(g.ops) {
		return workloads.Step{Done: true}
	}
	op := g.ops[g.done]
	g.done++
	step := workloads.Step{At: g.start + op.At}
	if g.sends {
		step.Op = &workloads.Op{Kind: history.Send, Key: op.Key, Value: history.MakeValue(g.id, int64(g.done)), Size: g.size}
		return step
	}
	p := g.next[op.Key]
	step.Op = &workloads.Op{Kind: history.Poll, Key: op.Key, From: p.from, Max: scriptPollBytes, Wait: scriptPollWait, Reset: p.moved}
	return step
}

func (g *scripted) learn(last *workloads.Result) {
	p := g.next[last.Op.Key]
	switch {
	case last.OutOfRange:
		to := last.Start
		if p.from > last.Start && last.High != history.NoOffset {
			to = max(last.Start, last.High)
		}
		p = position{max(to, 0), true}
	case last.Outcome == history.OK:
		p.moved = false
		if n := len(last.Records); n > 0 {
			p.from = max(p.from, last.Records[n-1].Offset+1)
		}
	}
	g.next[last.Op.Key] = p
}

// scriptOf writes down what the clients of a history did.
func scriptOf(h *history.History) *Script {
	s := &Script{}
	for _, c := range h.Header.Clients {
		s.Clients = append(s.Clients, ScriptClient{Name: c.Name, Role: c.Role, Pinned: c.Pinned, Loyal: c.Loyal, Idempotent: c.Idempotent})
	}
	begin := int64(0)
	for _, p := range h.Phases {
		if p.Name == "baseline" {
			begin = p.At
		}
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		at := time.Duration(max(op.Call-begin, 0)).Truncate(time.Microsecond)
		s.Ops = append(s.Ops, ScriptOp{At: at, Client: s.Clients[op.Client].Name, Key: op.Key})
	}
	return s
}

// tidy returns the script without clients that do nothing; where all do, a
// producer stays.
func (s *Script) tidy() *Script {
	t := &Script{Ops: s.Ops}
	for _, c := range s.Clients {
		if slices.ContainsFunc(s.Ops, func(op ScriptOp) bool { return op.Client == c.Name }) {
			t.Clients = append(t.Clients, c)
		}
	}
	if len(t.Clients) == 0 {
		t.Clients = s.Clients[:min(1, len(s.Clients))]
	}
	return t
}

// clientSpecs returns the plan's clients: those of its script, or else of its workload.
func (p Plan) clientSpecs(sys system.System) ([]workloads.ClientSpec, error) {
	w, err := workloads.Lookup(p.Workload)
	if err != nil {
		return nil, err
	}
	cfg := p.workload(sys)
	if p.Script == nil {
		return w.Clients(cfg)
	}
	if err := p.Script.validate(p.NodeNames(), cfg.Keys); err != nil {
		return nil, err
	}
	return p.Script.clients(p.NodeNames(), p.Size), nil
}
