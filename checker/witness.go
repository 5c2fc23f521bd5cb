package checker

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// Witness cuts h down to what proves a, an anomaly that the clause of that name found
// in it: no operation, delivered record, event of a node or record of the drained logs
// can be left out without the proof. What was drained keeps its sentinels, for a proof
// by absence rests on them; phases, faults and the header stay as they are. Operations
// are numbered anew, in their order. The clause finds the same anomaly in the result. An error says that
// it does not find it in h, or that ctx ended.
func Witness(ctx context.Context, h *history.History, o Options, clause string, a Anomaly) (*history.History, error) {
	o.PorcupineTimeout = -time.Second // the exact procedures decide
	w := cutting{h: h, options: o.withDefaults(), clause: clause, anomaly: a, budget: cutBudget}
	for _, list := range []func() []atom{w.near, w.partition, w.everything} {
		atoms := list()
		if w.proves(ctx, atoms) {
			cut := w.build(w.shrink(ctx, atoms))
			for i := range cut.Ops {
				cut.Ops[i].ID = int64(i)
			}
			return cut, ctx.Err()
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("the clause %s does not find this %s in the history: judge it again first", clause, a.Class)
}

// cutBudget is how many atoms are judged in all before a cut is taken as it is.
const cutBudget = 20_000_000

// cutting is the work on one witness.
type cutting struct {
	h       *history.History
	options Options
	clause  string
	anomaly Anomaly
	budget  int
	all     bool // partitions and queues are kept, not the anomaly's alone
}

// keeps reports whether what was drained of key is kept.
func (w *cutting) keeps(key string) bool { return w.all || key == w.anomaly.Key }

// atom is one thing that a cut keeps or leaves out.
type atom struct {
	what atomKind
	of   int // index into Ops, Events or Replicas
	rec  int // which of its records
}

type atomKind uint8

const (
	anOp     atomKind = iota
	anEvent           // of a node
	aRead             // one record that a poll delivered
	aDrained          // one record of a drained log
)

// near lists what probably is the proof: the operations that the anomaly names, all
// sends of the messages that they are about, and what was drained in their places.
func (w *cutting) near() []atom {
	values, offsets := map[history.Value]bool{w.anomaly.Value: true}, map[int64]bool{w.anomaly.Offset: true}
	named := map[int64]bool{}
	for _, id := range w.anomaly.Ops {
		named[id] = true
	}
	records := func(list []history.Record) {
		for i := range list {
			values[list[i].Value], offsets[list[i].Offset] = true, true
		}
	}
	for i := range w.h.Ops {
		op := &w.h.Ops[i]
		if !named[op.ID] {
			continue
		}
		if op.Kind == history.Send {
			values[op.Value], offsets[op.Offset] = true, true
		}
		records(op.Records)
		offsets[op.From], offsets[op.High] = true, true
	}
	for i := range w.h.Replicas {
		if r := &w.h.Replicas[i]; r.Key == w.anomaly.Key {
			for j := range r.Records {
				if offsets[r.Records[j].Offset] {
					values[r.Records[j].Value] = true
				}
			}
		}
	}
	return w.atoms(func(op *history.Op) bool {
		return named[op.ID] || op.Kind == history.Send && values[op.Value]
	}, func(rec *history.Record) bool { return offsets[rec.Offset] || values[rec.Value] })
}

// partition lists everything about the anomaly's partition.
func (w *cutting) partition() []atom {
	return w.atoms(func(op *history.Op) bool {
		return w.h.Header.Keys[op.Key] == w.anomaly.Key || op.Kind == history.Send && op.Value == w.anomaly.Value
	}, func(*history.Record) bool { return true })
}

// everything lists the whole history: messages may have gone elsewhere, as to a queue of
// dead letters.
func (w *cutting) everything() []atom {
	w.all = true
	return w.atoms(func(*history.Op) bool { return true }, func(*history.Record) bool { return true })
}

// atoms lists the operations and drained records that some condition takes, with all
// events of nodes.
func (w *cutting) atoms(op func(*history.Op) bool, rec func(*history.Record) bool) []atom {
	var all []atom
	for i := range w.h.Ops {
		if !op(&w.h.Ops[i]) {
			continue
		}
		all = append(all, atom{what: anOp, of: i})
		for j := range w.h.Ops[i].Records {
			all = append(all, atom{what: aRead, of: i, rec: j})
		}
	}
	for i := range w.h.Events {
		all = append(all, atom{what: anEvent, of: i})
	}
	for i := range w.h.Replicas {
		r := &w.h.Replicas[i]
		for j := range r.Records {
			if s := &r.Records[j]; w.keeps(r.Key) && s.Payload != history.Sentinel && rec(s) {
				all = append(all, atom{what: aDrained, of: i, rec: j})
			}
		}
	}
	return all
}

// build returns the history of some atoms.
func (w *cutting) build(atoms []atom) *history.History {
	cut := *w.h
	// Atoms are grouped by what they are about, and a history is in order.
	atoms = slices.Clone(atoms)
	slices.SortFunc(atoms, func(a, b atom) int {
		return cmp.Or(cmp.Compare(a.what, b.what), cmp.Compare(a.of, b.of), cmp.Compare(a.rec, b.rec))
	})
	cut.Ops, cut.Events, cut.Replicas, cut.Drains, cut.Stalls, cut.Notes = nil, nil, nil, nil, nil, nil
	reads, drained := map[int][]history.Record{}, map[int][]history.Record{}
	for _, a := range atoms {
		switch a.what {
		case anEvent:
			cut.Events = append(cut.Events, w.h.Events[a.of])
		case aRead:
			reads[a.of] = append(reads[a.of], w.h.Ops[a.of].Records[a.rec])
		case aDrained:
			drained[a.of] = append(drained[a.of], w.h.Replicas[a.of].Records[a.rec])
		}
	}
	for _, a := range atoms {
		if a.what == anOp {
			op := w.h.Ops[a.of]
			op.Records = reads[a.of]
			cut.Ops = append(cut.Ops, op)
		}
	}
	for i, r := range w.h.Replicas {
		if !w.keeps(r.Key) {
			continue
		}
		kept := drained[i]
		for _, rec := range r.Records {
			if rec.Payload == history.Sentinel {
				kept = append(kept, rec)
			}
		}
		slices.SortStableFunc(kept, func(a, b history.Record) int { return cmp.Compare(a.Offset, b.Offset) })
		r.Records = kept
		cut.Replicas = append(cut.Replicas, r)
	}
	for _, d := range w.h.Drains {
		if w.keeps(d.Key) {
			cut.Drains = append(cut.Drains, d)
		}
	}
	return &cut
}

// proves reports whether the clause finds the anomaly in what the atoms tell.
func (w *cutting) proves(ctx context.Context, atoms []atom) bool {
	w.budget -= len(atoms)
	v, err := newView(w.build(atoms), w.options)
	if err != nil || ctx.Err() != nil {
		return false
	}
	judges := v.clauses()
	i := slices.IndexFunc(judges, func(c clauseCheck) bool { return c.name == w.clause })
	if i < 0 {
		return false
	}
	c := v.judge(ctx, w.clause, judges[i].run)
	return c.Verdict != HarnessError && slices.ContainsFunc(c.Anomalies, func(a Anomaly) bool {
		if a.Class != w.anomaly.Class || a.Key != w.anomaly.Key || a.Value != w.anomaly.Value && a.Class != ClassNotRecovered {
			return false
		}
		// A text quotes the evidence; that of what never happened counts attempts.
		return a.Class == ClassNotRecovered || a.Text == w.anomaly.Text
	})
}

// shrink leaves out all about one message after another, and then single atoms, until
// none of them can go.
func (w *cutting) shrink(ctx context.Context, atoms []atom) []atom {
	var groups [][]atom
	about := map[history.Value]int{}
	for _, a := range atoms {
		value, ok := w.value(a)
		n, known := about[value]
		switch {
		case ok && known:
			groups[n] = append(groups[n], a)
		case ok:
			about[value] = len(groups)
			fallthrough
		default:
			groups = append(groups, []atom{a})
		}
	}
	var singles [][]atom
	for _, a := range slices.Concat(w.thin(ctx, groups)...) {
		singles = append(singles, []atom{a})
	}
	return slices.Concat(w.thin(ctx, singles)...)
}

// value is the message that a is about, if it is about one.
func (w *cutting) value(a atom) (history.Value, bool) {
	switch a.what {
	case anOp:
		op := &w.h.Ops[a.of]
		return op.Value, op.Kind == history.Send
	case aRead:
		rec := &w.h.Ops[a.of].Records[a.rec]
		return rec.Value, rec.Payload == history.Good
	case aDrained:
		rec := &w.h.Replicas[a.of].Records[a.rec]
		return rec.Value, rec.Payload == history.Good
	}
	return 0, false
}

// thin leaves out stretches of groups, shorter and shorter ones, until none of the
// groups can go.
func (w *cutting) thin(ctx context.Context, groups [][]atom) [][]atom {
	for size := max(1, len(groups)/2); ; {
		gone := false
		for from := 0; from < len(groups) && w.budget > 0 && ctx.Err() == nil; {
			rest := slices.Delete(slices.Clone(groups), from, min(from+size, len(groups)))
			if w.proves(ctx, slices.Concat(rest...)) {
				groups, gone = rest, true
			} else {
				from += size
			}
		}
		switch {
		case w.budget <= 0 || ctx.Err() != nil, size == 1 && !gone:
			return groups
		case size > 1:
			size /= 2
		}
	}
}
