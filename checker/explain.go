package checker

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/faultline-mq/faultline/checker/history"
)

// Story is everything that a history knows about one message, in order of time.
type Story struct {
	Value     history.Value `json:"value"`
	Name      string        `json:"name"` // "message 17 of producer 3"
	Key       string        `json:"key,omitempty"`
	Offset    int64         `json:"offset"`             // where it was acknowledged, or NoOffset
	Found     int64         `json:"found"`              // where it stands in the drained log, or NoOffset
	Holds     []string      `json:"holds,omitempty"`    // drained replicas with it
	Lacks     []string      `json:"lacks,omitempty"`    // drained replicas without it
	Unproven  []string      `json:"unproven,omitempty"` // replicas whose drain is incomplete
	Lines     []StoryLine   `json:"lines"`
	Anomalies []Anomaly     `json:"anomalies,omitempty"` // filled by the caller that has a Result, see WithAnomalies
}

// StoryLine is one step of a Story.
type StoryLine struct {
	At          int64  `json:"at"`
	Uncertainty int64  `json:"uncertainty,omitempty"` // ± nanoseconds of At: a node's own clock
	Node        string `json:"node,omitempty"`
	Op          int64  `json:"op"` // operation, or -1
	Text        string `json:"text"`
}

// maxReadLines bounds the polls that a Story lists one by one.
const maxReadLines = 20

// Explain gathers what h knows about value: its sends and their answers, the
// reads that returned it, the truncations that covered its offset, changes of
// leader and the faults while it was under way, and the replicas that hold it
// now. It returns an error for a value that the history never mentions.
func Explain(h *history.History, value history.Value) (*Story, error) {
	v, err := newView(h, DefaultOptions())
	if err != nil {
		return nil, err
	}
	s := &Story{Value: value, Name: msgName(value), Offset: history.NoOffset, Found: history.NoOffset}
	var k *keyView
	from, to := history.Infinity, int64(0)
	offsets := map[int64]bool{}
	line := func(t int64, node string, op int64, format string, args ...any) {
		s.Lines = append(s.Lines, StoryLine{At: t, Node: node, Op: op, Text: fmt.Sprintf(format, args...)})
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind != history.Send || op.Value != value {
			continue
		}
		k = v.all[op.Key]
		node := v.node(op.Node)
		line(op.Call, node, op.ID, "%s sent it to %s%s", v.producer(op), k.name, on(node))
		switch {
		case op.Outcome == history.OK && !op.Acked:
			line(op.Return, node, op.ID, "written, without asking for an acknowledgement")
		case op.Outcome == history.OK && op.Offset != history.NoOffset:
			line(op.Return, node, op.ID, "acknowledged%s at offset %d", by(node), op.Offset)
		case op.Outcome == history.OK:
			line(op.Return, node, op.ID, "acknowledged%s, its offset unknown", by(node))
		case op.Return == history.Infinity:
			line(op.Call, node, op.ID, "never answered: it may have happened")
		case op.Outcome == history.Failed:
			line(op.Return, node, op.ID, "failed for certain: %s", orElse(op.Code, "no code"))
		default:
			line(op.Return, node, op.ID, "indeterminate: %s", orElse(op.Code, "no code"))
		}
		if op.Outcome == history.OK && op.Offset != history.NoOffset {
			s.Offset = op.Offset
			offsets[op.Offset] = true
		}
		if v.found.at(int32(i)) != history.NoOffset {
			s.Found = v.found.at(int32(i))
			offsets[s.Found] = true
		}
		from = min(from, op.Call)
		to = max(to, finite(op))
	}
	reads := 0
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind.Settles() && op.Value == value {
			line(finite(op), v.node(op.Node), op.ID, "%s by %s%s: %s", op.Kind, v.producer(op), on(v.node(op.Node)), settlementText(op))
			to = max(to, finite(op))
		}
		for j := range op.Records {
			rec := &op.Records[j]
			if rec.Payload != history.Good || rec.Value != value {
				continue
			}
			if k == nil {
				k = v.all[op.Key]
			}
			offsets[rec.Offset] = true
			from, to = min(from, op.Call), max(to, finite(op))
			if reads++; reads <= maxReadLines {
				line(finite(op), v.node(op.Node), op.ID, "%s by %s%s", readText(op, rec, v.all[op.Key]), v.producer(op), on(v.node(op.Node)))
			}
		}
	}
	if reads > maxReadLines {
		line(to, "", -1, "read %s more times", group(reads-maxReadLines))
	}
	if k == nil {
		k = v.holder(value, s, offsets)
	}
	if k == nil {
		return nil, fmt.Errorf("the history never mentions value %d (%s): values are in summary.json and checks/", uint64(value), s.Name)
	}
	s.Key = k.name
	v.storyOfKey(k, s, offsets, from)
	for _, f := range v.faults {
		begin, ok := f.start()
		end, healed := f.at(history.Healed)
		if !healed {
			end = history.Infinity
		}
		if ok && begin <= to && end >= from {
			line(begin, strings.Join(f.Targets, ","), -1, "%s began on %s", f.name, strings.Join(f.Targets, ", "))
			if healed {
				line(end, strings.Join(f.Targets, ","), -1, "%s was healed", f.name)
			}
		}
	}
	slices.SortStableFunc(s.Lines, func(a, b StoryLine) int { return cmp.Compare(a.At, b.At) })
	return s, nil
}

// readText words how op was given rec.
func readText(op *history.Op, rec *history.Record, k *keyView) string {
	switch {
	case op.Kind != history.Receive:
		return fmt.Sprintf("read at offset %d", rec.Offset)
	case rec.Delivery > 0:
		return fmt.Sprintf("received from %s, delivery %d,", k.name, rec.Delivery)
	}
	return "received from " + k.name
}

// settlementText words the answer to a settlement.
func settlementText(op *history.Op) string {
	switch {
	case op.Outcome == history.OK:
		return "confirmed"
	case op.Return == history.Infinity:
		return "never answered, it may have happened"
	}
	return op.Outcome.String() + ", " + orElse(op.Code, "no code")
}

// holder finds the partition whose drained log holds a value that no operation
// names.
func (v *view) holder(value history.Value, s *Story, offsets map[int64]bool) *keyView {
	for _, k := range v.all {
		for _, r := range k.replicas {
			for i := range r.log {
				if rec := &r.log[i]; rec.Payload == history.Good && rec.Value == value {
					s.Found = rec.Offset
					offsets[rec.Offset] = true
					return k
				}
			}
		}
	}
	return nil
}

// storyOfKey adds what the nodes and the drain say.
func (v *view) storyOfKey(k *keyView, s *Story, offsets map[int64]bool, from int64) {
	for _, e := range k.events {
		text := ""
		switch e.Kind {
		case "truncate":
			for _, o := range sorted(offsets) {
				if o >= e.From && o < e.To {
					text = fmt.Sprintf("%s truncated %s from %d to %d (epoch %d): its offset %d was removed there", e.Node, k.name, e.To, e.From, e.Epoch, o)
				}
			}
		case "leader":
			if e.At+e.Uncertainty >= from {
				text = fmt.Sprintf("%s became leader of %s in epoch %d", orElse(e.Leader, e.Node), k.name, e.Epoch)
			}
		case "unclean":
			text = fmt.Sprintf("%s became leader of %s by unclean election (epoch %d)", orElse(e.Leader, e.Node), k.name, e.Epoch)
		}
		if text != "" {
			s.Lines = append(s.Lines, StoryLine{At: e.At, Uncertainty: e.Uncertainty, Node: e.Node, Op: -1, Text: text})
		}
	}
	for _, r := range k.replicas {
		switch {
		case r.holds(s.Value):
			s.Holds = append(s.Holds, r.Node)
		case r.readable:
			s.Lacks = append(s.Lacks, r.Node)
		default:
			s.Unproven = append(s.Unproven, r.Node)
		}
	}
	end := func(text string) {
		s.Lines = append(s.Lines, StoryLine{At: k.drainAt(), Op: -1, Text: text})
	}
	switch {
	case k.drain == nil:
		return
	case k.drain.Missing:
		end("the drain found the topic gone")
		return
	}
	for _, q := range v.queues {
		if q.index == k.index && q.dead != nil && q.dead.leader != nil && q.dead.leader.holds(s.Value) {
			end("the drain found it among the dead letters, " + q.dead.name)
		}
	}
	if len(s.Holds) > 0 {
		end("the drain found it on " + strings.Join(s.Holds, ", "))
	}
	if len(s.Lacks) > 0 && !v.queue(k) { // out of a queue it is once it is consumed
		end("the drain found it missing on " + strings.Join(s.Lacks, ", "))
	}
	if len(s.Unproven) > 0 {
		end("the drain did not read all of " + strings.Join(s.Unproven, ", "))
	}
}

func on(node string) string {
	if node == "" {
		return ""
	}
	return " on " + node
}

// WithAnomalies adds the anomalies of r that concern the story's message.
func (s *Story) WithAnomalies(r *Result) *Story {
	for _, c := range r.Checks {
		for _, a := range c.Anomalies {
			if a.Value == s.Value && a.Key == s.Key {
				s.Anomalies = append(s.Anomalies, a)
			}
		}
	}
	return s
}

// String writes the story one line a step.
func (s *Story) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (value %d), partition %s\n", s.Name, uint64(s.Value), s.Key)
	for _, l := range s.Lines {
		pm := ""
		if l.Uncertainty > 0 {
			pm = " ±" + strconv.FormatFloat(float64(l.Uncertainty)/1e6, 'f', 1, 64) + " ms"
		}
		fmt.Fprintf(&b, "%14s%s  %s\n", at(l.At), pm, l.Text)
	}
	for _, a := range s.Anomalies {
		fmt.Fprintf(&b, "%s: %s\n", a.Class, a.Text)
		if a.Cause != "" {
			fmt.Fprintf(&b, "  cause: %s\n", a.Cause)
		}
	}
	return b.String()
}
