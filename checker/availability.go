package checker

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/faultline-mq/faultline/checker/history"
)

const msec = 1e6 // nanoseconds

// counts counts operations by outcome, in all and by the phase in which they began.
func (v *view) counts() Counts {
	c := Counts{Phases: map[string]PhaseCounts{}, Queues: v.queueCounts()}
	phases := slices.Clone(v.h.Phases)
	slices.SortStableFunc(phases, func(a, b history.Phase) int { return cmp.Compare(a.At, b.At) })
	for _, p := range phases {
		c.Phases[p.Name] = PhaseCounts{}
	}
	for i := range v.h.Ops {
		op := &v.h.Ops[i]
		n, exact := slices.BinarySearchFunc(phases, op.Call, func(p history.Phase, t int64) int { return cmp.Compare(p.At, t) })
		for exact && n+1 < len(phases) && phases[n+1].At == op.Call {
			n++ // of phases that begin at once, the last is on
		}
		if !exact {
			n--
		}
		var name string
		if n >= 0 {
			name = phases[n].Name
		}
		p := c.Phases[name]
		switch op.Outcome {
		case history.OK:
			c.OK++
			p.OK++
		case history.Failed:
			c.Failed++
			p.Failed++
		default:
			c.Indeterminate++
			p.Indeterminate++
		}
		switch op.Kind {
		case history.Send:
			p.Sends++
		case history.Poll, history.Receive:
			p.Polls++
			c.Delivered += len(op.Records)
		}
		if acked(op) {
			c.Acknowledged++
			p.Acknowledged++
		}
		if name != "" {
			c.Phases[name] = p
		}
	}
	return c
}

// availability measures what every run measures beside its verdict.
func (v *view) availability() Availability {
	a := Availability{PerKeyMS: map[string]float64{}, RecoveryMS: []float64{}, FailoverMS: []float64{}, Latency: map[string]Latency{}}
	stalls := merged(v.h.Stalls)
	for _, s := range stalls {
		a.StallsMS += float64(s.To-s.From) / msec
	}
	for _, k := range v.all {
		if len(k.sends) == 0 {
			continue
		}
		length, from := v.longestUnavailable(k, stalls)
		ms := float64(length) / msec
		a.PerKeyMS[k.name] = ms
		if ms > a.LongestUnavailableMS {
			a.LongestUnavailableMS, a.LongestKey, a.LongestFrom = ms, k.name, from
		}
	}
	for _, f := range v.faults {
		failover, recovery := -1.0, -1.0
		if injected, until, ok := f.window(); ok {
			failover = v.firstOK(f, injected, until, func(op *history.Op) bool { return op.Call >= injected })
		}
		if healed, ok := f.at(history.Healed); ok {
			recovery = v.firstOK(f, healed, history.Infinity, func(op *history.Op) bool { return op.Return >= healed })
		}
		a.FailoverMS = append(a.FailoverMS, failover)
		a.RecoveryMS = append(a.RecoveryMS, recovery)
	}
	v.latencies(&a)
	return a
}

// firstOK returns the milliseconds from a moment until every partition that f
// affects, and that saw any send, had an ok send that counts; -1 where one had
// none before the end.
func (v *view) firstOK(f *faultView, from, until int64, counts func(*history.Op) bool) float64 {
	worst := -1.0
	for _, k := range v.all {
		if len(k.sends) == 0 || !f.affects(k) {
			continue
		}
		first := history.Infinity
		for _, i := range k.sends {
			if op := &v.h.Ops[i]; op.Outcome == history.OK && op.Return < until && counts(op) {
				first = min(first, op.Return)
			}
		}
		if first == history.Infinity {
			return -1
		}
		worst = max(worst, float64(first-from)/msec)
	}
	return worst
}

// merged returns stalls in order and without overlap.
func merged(stalls []history.Stall) []history.Stall {
	var out []history.Stall
	sorted := slices.Clone(stalls)
	slices.SortFunc(sorted, func(a, b history.Stall) int { return cmp.Compare(a.From, b.From) })
	for _, s := range sorted {
		if n := len(out); n > 0 && s.From <= out[n-1].To {
			out[n-1].To = max(out[n-1].To, s.To)
		} else if s.To > s.From {
			out = append(out, s)
		}
	}
	return out
}

// longestUnavailable returns the longest time, and its beginning, in which sends
// to k were attempted and none completed ok: from the first attempt that was
// open after an ok completion to the next ok completion, or to the end of the
// last attempt. Stalls of the harness are taken off.
func (v *view) longestUnavailable(k *keyView, stalls []history.Stall) (length, from int64) {
	var oks []int64 // completions
	end := int64(math.MinInt64)
	calls := make([]*history.Op, 0, len(k.sends))
	for _, i := range k.sends {
		op := &v.h.Ops[i]
		calls = append(calls, op)
		end = max(end, op.Call, finite(op))
		if op.Outcome == history.OK {
			oks = append(oks, op.Return)
		}
	}
	slices.Sort(oks)
	slices.SortFunc(calls, func(a, b *history.Op) int { return cmp.Or(cmp.Compare(a.Call, b.Call), cmp.Compare(a.ID, b.ID)) })
	oks = append(oks, end)
	after := int64(math.MinInt64) // the ok completion before the gap
	open := int64(math.MinInt64)  // latest return of the attempts called so far
	n := 0
	for _, next := range oks {
		for ; n < len(calls) && calls[n].Call <= after; n++ {
			open = max(open, finite(calls[n]))
		}
		begin := history.Infinity
		if open > after && after != math.MinInt64 {
			begin = after
		} else if n < len(calls) {
			begin = calls[n].Call
		}
		if begin < next {
			if gap := next - begin - overlap(stalls, begin, next); gap > length {
				length, from = gap, begin
			}
		}
		after = next
	}
	return length, from
}

// finite is when an attempt was over for its client; one that was never
// answered counts at its call only.
func finite(op *history.Op) int64 {
	if op.Return == history.Infinity {
		return op.Call
	}
	return op.Return
}

func overlap(stalls []history.Stall, from, to int64) int64 {
	var sum int64
	for _, s := range stalls {
		if a, b := max(s.From, from), min(s.To, to); b > a {
			sum += b - a
		}
	}
	return sum
}

// latencies fills percentiles over ok sends: before the first fault, during any,
// after the last, and during each. They are those of the requests as sent; the
// history does not hold when an open-loop request was due.
func (v *view) latencies(a *Availability) {
	type window struct {
		name     string
		from, to int64
	}
	var ws []window
	first, last := history.Infinity, int64(math.MinInt64)
	for _, f := range v.faults {
		from, ok := f.start()
		if !ok {
			continue
		}
		to, healed := f.at(history.Healed)
		if !healed {
			to = history.Infinity
		}
		ws = append(ws, window{fmt.Sprintf("fault %d", f.ID), from, to})
		first, last = min(first, from), max(last, to)
	}
	hists := map[string]*hdrhistogram.Histogram{}
	record := func(name string, micros int64) {
		h := hists[name]
		if h == nil {
			h = hdrhistogram.New(1, 3_600_000_000, 3) // 1 µs to 1 h, three digits
			hists[name] = h
		}
		// Out of range is over an hour: longer than any deadline.
		_ = h.RecordValue(min(max(micros, 1), 3_600_000_000))
	}
	for _, k := range v.all {
		for _, i := range k.sends {
			op := &v.h.Ops[i]
			if op.Outcome != history.OK {
				continue
			}
			micros := (op.Return - op.Call) / 1000
			during := false
			for _, w := range ws {
				if op.Call >= w.from && op.Call < w.to {
					during = true
					record(w.name, micros)
				}
			}
			switch {
			case during:
				record("during", micros)
			case op.Call < first:
				record("before", micros)
			case op.Call >= last:
				record("after", micros)
			}
		}
	}
	for name, h := range hists {
		ms := func(micros int64) float64 { return float64(micros) / 1000 }
		a.Latency[name] = Latency{
			Count: int(h.TotalCount()),
			P50:   ms(h.ValueAtPercentile(50)), P90: ms(h.ValueAtPercentile(90)), P99: ms(h.ValueAtPercentile(99)),
			P999: ms(h.ValueAtPercentile(99.9)), Max: ms(h.Max()),
		}
	}
}
