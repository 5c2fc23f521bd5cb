package report

import (
	"cmp"
	"slices"
	"strings"

	"github.com/faultline-mq/faultline/checker/history"
)

// faultSpan is the life of one fault, put together from its events.
type faultSpan struct {
	ID      int
	Name    string
	Targets []string
	Sides   [][]string
	Keys    []string
	Role    string
	Start   int64 // the injection began
	End     int64 // its healing was proven; Infinity where it never was
	Stages  []history.Fault
}

// skippedFaults returns the faults of h that were not injected: their event never
// came, or the run ended early.
func skippedFaults(h *history.History) []history.Fault {
	return slices.DeleteFunc(slices.Clone(h.Faults), func(f history.Fault) bool { return f.Stage != history.Skipped })
}

// faultSpans returns the faults of h that were to be injected, in order of ID.
func faultSpans(h *history.History) []faultSpan {
	byID := map[int]*faultSpan{}
	var order []*faultSpan
	for _, e := range h.Faults {
		if e.Stage == history.Skipped {
			continue
		}
		f := byID[e.ID]
		if f == nil {
			f = &faultSpan{ID: e.ID, Name: e.Name, Start: e.At, End: history.Infinity}
			byID[e.ID] = f
			order = append(order, f)
		}
		// Targets are bound at injection, so a later event may know more.
		if len(e.Targets) > 0 {
			f.Targets = e.Targets
		}
		if len(e.Sides) > 0 {
			f.Sides = e.Sides
		}
		if len(e.Keys) > 0 {
			f.Keys = e.Keys
		}
		if e.Role != "" {
			f.Role = e.Role
		}
		f.Start = min(f.Start, e.At)
		if e.Stage == history.Healed {
			f.End = e.At
		}
		f.Stages = append(f.Stages, e)
	}
	slices.SortStableFunc(order, func(a, b *faultSpan) int { return cmp.Compare(a.ID, b.ID) })
	out := make([]faultSpan, len(order))
	for i, f := range order {
		out[i] = *f
	}
	return out
}

func (f faultSpan) stage(s history.FaultStage) (history.Fault, bool) {
	for _, e := range f.Stages {
		if e.Stage == s {
			return e, true
		}
	}
	return history.Fault{}, false
}

// proven reports whether the effect was seen after injection and still right
// before healing.
func (f faultSpan) proven() bool {
	_, first := f.stage(history.Proven)
	_, still := f.stage(history.StillProven)
	bad, unproven := f.stage(history.Unproven)
	healing, heals := f.stage(history.Healing)
	// A proof that was missing after healing began concerns the healing alone.
	return first && still && (!unproven || (heals && bad.At >= healing.At))
}

func (f faultSpan) healed() bool {
	_, ok := f.stage(history.Healed)
	return ok
}

// detail is the proof in words, or what was missing.
func (f faultSpan) detail() string {
	if e, ok := f.stage(history.Unproven); ok {
		return e.Detail
	}
	when := map[history.FaultStage]string{history.Proven: "after injection: ", history.StillProven: "before healing: ", history.Healed: "after healing: "}
	var parts []string
	for _, e := range f.Stages {
		if e.Detail != "" {
			parts = append(parts, when[e.Stage]+e.Detail)
		}
	}
	return strings.Join(parts, "; ")
}

// side returns the letter of the side of a partition that node is on ("A",
// "B", …; the sides of a target come first in the harness's own order), or "".
func (f faultSpan) side(node string) string {
	for i, s := range f.Sides {
		if slices.Contains(s, node) {
			return string(rune('A' + i%26))
		}
	}
	return ""
}

// touches reports whether node is a target or stands on a side of the fault.
func (f faultSpan) touches(node string) bool {
	return slices.Contains(f.Targets, node) || f.side(node) != ""
}

// effective is the time in which the fault was in force: from the end of its
// injection to the beginning of its healing, as far as they are known.
func (f faultSpan) effective() (from, to int64) {
	from, to = f.Start, f.End
	if e, ok := f.stage(history.Injected); ok {
		from = e.At
	}
	if e, ok := f.stage(history.Healing); ok {
		to = e.At
	}
	return from, to
}

// stops reports whether the fault takes the process of its targets away.
func (f faultSpan) stops() bool {
	name, _, _ := strings.Cut(f.Name, ":")
	return name == "kill" || name == "power" || name == "stop" || name == "rolling-restart" || name == "wipe"
}

// spanText says when the fault was there: "12.000 s to 19.000 s".
func (f faultSpan) spanText() string {
	if f.End == history.Infinity {
		return "from " + seconds(f.Start) + " on, never healed"
	}
	return seconds(f.Start) + " to " + seconds(f.End)
}

// reign is a time in which a node held itself for the leader of a partition.
type reign struct {
	Node  string
	Epoch int32
	From  int64
	To    int64 // Infinity while it lasts
	Unc   int64 // ± of From
	Stale bool  // another node led in a later epoch during all of it
}

// reigns returns who led key, by the nodes' own events, in order of From. A
// reign in which a later epoch already had its leader is cut in two, and its
// second part is stale.
func reigns(h *history.History, faults []faultSpan, key string) []reign {
	var events []history.NodeEvent
	for _, e := range h.Events {
		if e.Key == key && (e.Kind == "leader" || e.Kind == "follower" || e.Kind == "fenced") || e.Kind == "start" || e.Kind == "stop" || e.Kind == "panic" {
			events = append(events, e)
		}
	}
	slices.SortStableFunc(events, func(a, b history.NodeEvent) int { return cmp.Compare(a.At, b.At) })
	var out []reign
	open := map[string]int{} // node → index in out
	end := func(node string, at int64) {
		if i, ok := open[node]; ok {
			out[i].To = max(at, out[i].From)
			delete(open, node)
		}
	}
	type death struct {
		at   int64
		node string
	}
	var deaths []death
	for _, f := range faults {
		if _, seen := f.stage(history.Proven); seen && f.stops() {
			at, _ := f.effective()
			for _, n := range f.Targets {
				deaths = append(deaths, death{at, n})
			}
		}
	}
	slices.SortFunc(deaths, func(a, b death) int { return cmp.Compare(a.at, b.at) })
	for _, e := range events {
		for len(deaths) > 0 && deaths[0].at <= e.At {
			end(deaths[0].node, deaths[0].at)
			deaths = deaths[1:]
		}
		switch {
		case e.Kind == "start" || e.Kind == "stop" || e.Kind == "panic":
			end(e.Node, e.At)
		case e.Kind == "follower" || e.Kind == "fenced":
			end(e.Node, e.At)
		case e.Kind == "leader":
			if e.Leader != "" && e.Leader != e.Node {
				end(e.Node, e.At) // it names another one
				continue
			}
			if i, ok := open[e.Node]; ok && out[i].Epoch == e.Epoch {
				continue
			}
			end(e.Node, e.At)
			open[e.Node] = len(out)
			out = append(out, reign{Node: e.Node, Epoch: e.Epoch, From: e.At, To: history.Infinity, Unc: e.Uncertainty})
		}
	}
	for _, d := range deaths {
		end(d.node, d.at)
	}
	return splitStale(out)
}

// splitStale cuts each reign where a reign of a later epoch begins.
func splitStale(in []reign) []reign {
	byEpoch := slices.Clone(in)
	slices.SortStableFunc(byEpoch, func(a, b reign) int { return cmp.Compare(b.Epoch, a.Epoch) })
	var out []reign
	later := history.Infinity // when the first of the later epochs began
	for i := 0; i < len(byEpoch); {
		j, first := i, later
		for ; j < len(byEpoch) && byEpoch[j].Epoch == byEpoch[i].Epoch; j++ {
			r := byEpoch[j]
			first = min(first, r.From)
			cut := min(max(later, r.From), r.To)
			if cut > r.From {
				fresh := r
				fresh.To = cut
				out = append(out, fresh)
			}
			if cut < r.To {
				r.From, r.Stale = cut, true
				out = append(out, r)
			}
		}
		i, later = j, first
	}
	slices.SortStableFunc(out, func(a, b reign) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.Epoch, b.Epoch)) })
	return out
}

// membership is a time in which a partition had one in-sync set.
type membership struct {
	ISR      []string
	From, To int64
}

// memberships returns the in-sync sets of key in order of time. Of events with
// the same set the first counts; sets of an epoch that is already over are left
// out, for they rule nothing any more.
func memberships(h *history.History, key string) []membership {
	var events []history.NodeEvent
	for _, e := range h.Events {
		if e.Key == key && len(e.ISR) > 0 && (e.Kind == "isr" || e.Kind == "leader") {
			events = append(events, e)
		}
	}
	slices.SortStableFunc(events, func(a, b history.NodeEvent) int { return cmp.Compare(a.At, b.At) })
	var out []membership
	epoch := int32(-1)
	for _, e := range events {
		if e.Epoch < epoch {
			continue
		}
		epoch = e.Epoch
		isr := slices.Sorted(slices.Values(e.ISR))
		if n := len(out); n > 0 {
			if slices.Equal(out[n-1].ISR, isr) {
				continue
			}
			out[n-1].To = e.At
		}
		out = append(out, membership{ISR: isr, From: e.At, To: history.Infinity})
	}
	return out
}
