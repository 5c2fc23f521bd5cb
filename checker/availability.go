package checker

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

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
	a := Availability{PerKeyMS: map[string]float64{}, RecoveryMS: []float64{}, FailoverMS: []float64{}, Faults: []FaultAvailability{}}
	stalls := merged(v.h.Stalls)
	for _, s := range stalls {
		a.StallsMS += float64(s.To-s.From) / msec
	}
	outages := map[*keyView][]history.Stall{}
	for _, k := range v.all {
		if len(k.sends) == 0 {
			continue
		}
		outages[k] = v.outages(k)
		length, from := longest(outages[k], 0, history.Infinity, stalls)
		ms := float64(length) / msec
		a.PerKeyMS[k.name] = ms
		if ms > a.LongestUnavailableMS {
			a.LongestUnavailableMS, a.LongestKey, a.LongestFrom = ms, k.name, from
		}
	}
	for _, f := range v.faults {
		fa := v.faultAvailability(f, outages, stalls)
		a.Faults = append(a.Faults, fa)
		a.FailoverMS = append(a.FailoverMS, worst(fa.FailoverMS))
		a.RecoveryMS = append(a.RecoveryMS, worst(fa.RecoveryMS))
	}
	v.recoveryPoints(a.Faults)
	indeterminate := 0
	for i := range v.h.Ops {
		if v.h.Ops[i].Outcome == history.Indeterminate {
			indeterminate++
		}
	}
	a.IndeterminateShare = share(indeterminate, len(v.h.Ops))
	v.latencies(&a, stalls)
	return a
}

func share(n, of int) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// faultAvailability measures one fault on every partition that it affects and that
// saw any send.
func (v *view) faultAvailability(f *faultView, outages map[*keyView][]history.Stall, stalls []history.Stall) FaultAvailability {
	fa := FaultAvailability{ID: f.ID, Name: f.Name, UnavailableMS: map[string]float64{}, FailoverMS: map[string]float64{}, RecoveryMS: map[string]float64{}}
	start, started := f.start()
	injected, until, whole := f.window()
	healed, isHealed := f.at(history.Healed)
	end := history.Infinity
	if isHealed {
		end = healed
	}
	attempts, indeterminate := 0, 0
	for _, k := range v.all {
		if len(k.sends) == 0 || !f.affects(k) {
			continue
		}
		if started {
			length, _ := longest(outages[k], start, end, stalls)
			fa.UnavailableMS[k.name] = float64(length) / msec
		}
		// What a fault that was never whole, or never healed, was followed by says nothing of it.
		fa.FailoverMS[k.name], fa.RecoveryMS[k.name] = -1, -1
		if whole {
			fa.FailoverMS[k.name] = v.firstOK(k.sends, injected, until, stalls, func(op *history.Op) bool { return op.Call >= injected })
		}
		if isHealed {
			fa.RecoveryMS[k.name] = v.firstOK(k.sends, healed, history.Infinity, stalls, func(op *history.Op) bool { return op.Return >= healed })
		}
		for _, i := range k.sends {
			if op := &v.h.Ops[i]; started && op.Call >= start && op.Call < end {
				attempts++
				if op.Outcome == history.Indeterminate {
					indeterminate++
				}
			}
		}
	}
	fa.IndeterminateShare = share(indeterminate, attempts)
	for _, q := range v.queues {
		asked := slices.ContainsFunc(q.receives, func(i int32) bool { return v.h.Ops[i].Call >= healed })
		if !isHealed || !asked || !f.affects(q.keyView) {
			continue
		}
		if fa.ServedMS == nil {
			fa.ServedMS = map[string]float64{}
		}
		fa.ServedMS[q.name] = v.firstOK(q.receives, healed, history.Infinity, stalls, func(op *history.Op) bool { return op.Return >= healed && len(op.Records) > 0 })
	}
	return fa
}

// firstOK returns the milliseconds from a moment until one of some operations that
// counts was ok, stalls taken off; -1 where none was before until.
func (v *view) firstOK(of []int32, from, until int64, stalls []history.Stall, counts func(*history.Op) bool) float64 {
	first := history.Infinity
	for _, i := range of {
		if op := &v.h.Ops[i]; op.Outcome == history.OK && op.Return < until && counts(op) {
			first = min(first, op.Return)
		}
	}
	if first == history.Infinity {
		return -1
	}
	return float64(first-from-overlap(stalls, from, first)) / msec
}

// worst is the longest of the times of all partitions; -1 where one never came, or
// there are none.
func worst(perKey map[string]float64) float64 {
	w := -1.0
	for _, ms := range perKey {
		if ms < 0 {
			return -1
		}
		w = max(w, ms)
	}
	return w
}

// recoveryPoints counts what each fault cost: the acknowledged messages that are
// lost, by the fault in force when they were acknowledged, or the last one before.
func (v *view) recoveryPoints(faults []FaultAvailability) {
	index := map[string]int{}
	first, last := make([]int64, len(faults)), make([]int64, len(faults))
	for i, f := range v.faults {
		index[f.name] = i
	}
	lost := func(acknowledged int64) {
		n, ok := index[strings.TrimPrefix(v.faultAt(acknowledged), "after ")]
		if !ok {
			return // before any fault
		}
		f := &faults[n]
		if f.Lost++; f.Lost == 1 {
			first[n], last[n] = acknowledged, acknowledged
		}
		first[n], last[n] = min(first[n], acknowledged), max(last[n], acknowledged)
		f.LostSpanMS = float64(last[n]-first[n]) / msec
	}
	for _, k := range v.keys {
		for _, i := range k.sends {
			if op := &v.h.Ops[i]; acked(op) && v.found.at(i) == history.NoOffset && k.gone(v, op) {
				lost(op.Return)
			}
		}
	}
	v.eachMessage(func(q *queueView, m *message) {
		if t, ok := v.acknowledged(m); ok && v.fate(q, m) == gone {
			lost(t)
		}
	})
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

// outages returns the times in which sends to k were attempted and none completed
// ok, in order: from the first attempt that was open after an ok completion to the
// next ok completion, or to the end of the last attempt.
func (v *view) outages(k *keyView) []history.Stall {
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
	var out []history.Stall
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
			out = append(out, history.Stall{From: begin, To: next})
		}
		after = next
	}
	return out
}

// longest returns the longest of the outages that began before to and lasted
// beyond from, and its beginning: as long as it lasts from then on, stalls of the
// harness taken off.
func longest(outages []history.Stall, from, to int64, stalls []history.Stall) (length, at int64) {
	for _, o := range outages {
		if o.To <= from || o.From >= to {
			continue
		}
		begin := max(o.From, from)
		if gap := o.To - begin - overlap(stalls, begin, o.To); gap > length {
			length, at = gap, begin
		}
	}
	return length, at
}

// finite is when an attempt was over for its client; one that was never
// answered counts at its call only.
func finite(op *history.Op) int64 {
	if op.Return == history.Infinity {
		return op.Call
	}
	return op.Return
}

// overlap is how much of a time the harness stood still; stalls are merged.
func overlap(stalls []history.Stall, from, to int64) int64 {
	var sum int64
	i, _ := slices.BinarySearchFunc(stalls, from, func(s history.Stall, t int64) int { return cmp.Compare(s.To, t) })
	for ; i < len(stalls) && stalls[i].From < to; i++ {
		sum += max(min(stalls[i].To, to)-max(stalls[i].From, from), 0)
	}
	return sum
}

// latencyMax bounds what is recorded: over an hour is longer than any deadline.
const latencyMax = 3_600_000_000 // µs

// window is a time over which latencies are drawn together.
type window struct {
	name     string
	from, to int64
}

// histograms are of latencies, by the name of their window.
type histograms struct {
	windows     []window // of the faults
	first, last int64    // begin of the first and end of the last
	by          map[string]*hdrhistogram.Histogram
}

func (v *view) histograms() *histograms {
	h := &histograms{first: history.Infinity, last: math.MinInt64, by: map[string]*hdrhistogram.Histogram{}}
	for _, f := range v.faults {
		from, ok := f.start()
		if !ok {
			continue
		}
		to, healed := f.at(history.Healed)
		if !healed {
			to = history.Infinity
		}
		h.windows = append(h.windows, window{fmt.Sprintf("fault %d", f.ID), from, to})
		h.first, h.last = min(h.first, from), max(h.last, to)
	}
	return h
}

// add records what began at from and lasted until to.
func (h *histograms) add(from, to int64) {
	during := false
	for _, w := range h.windows {
		if from >= w.from && from < w.to {
			during = true
			h.record(w.name, to-from)
		}
	}
	switch {
	case during:
		h.record("during", to-from)
	case from < h.first:
		h.record("before", to-from)
	case from >= h.last:
		h.record("after", to-from)
	}
}

func (h *histograms) record(name string, ns int64) {
	hist := h.by[name]
	if hist == nil {
		hist = hdrhistogram.New(1, latencyMax, 3) // 1 µs to 1 h, three digits
		h.by[name] = hist
	}
	_ = hist.RecordValue(min(max(ns/1000, 1), latencyMax)) // never out of range
}

// percentiles returns what was recorded, in milliseconds.
func (h *histograms) percentiles() map[string]Latency {
	out := map[string]Latency{}
	ms := func(micros int64) float64 { return float64(micros) / 1000 }
	for name, hist := range h.by {
		out[name] = Latency{
			Count: int(hist.TotalCount()),
			P50:   ms(hist.ValueAtPercentile(50)), P90: ms(hist.ValueAtPercentile(90)), P99: ms(hist.ValueAtPercentile(99)),
			P999: ms(hist.ValueAtPercentile(99.9)), Max: ms(hist.Max()),
		}
	}
	return out
}

// NotCorrected is Availability.Correction of a run without a schedule.
const NotCorrected = "closed loop: not corrected"

// latencies fills percentiles over ok sends: before the first fault, during any,
// after the last, and during each. The service time is counted from the call, the
// response time from when the schedule wanted the call: a client that waits for an
// answer is late with the calls that follow, and what they waited belongs to their
// latency (coordinated omission). Without a schedule nobody knows what was left
// out, and nothing is made up in its place. Sends during a stall of the harness are
// left out.
func (v *view) latencies(a *Availability, stalls []history.Stall) {
	service, response := v.histograms(), v.histograms()
	oks, scheduled := 0, 0
	for _, k := range v.all {
		for _, i := range k.sends {
			op := &v.h.Ops[i]
			if op.Outcome != history.OK {
				continue
			}
			if overlap(stalls, op.Call, op.Return) == 0 {
				oks++
				service.add(op.Call, op.Return)
			}
			if op.Due > 0 && overlap(stalls, op.Due, op.Return) == 0 {
				scheduled++
				response.add(min(op.Due, op.Call), op.Return)
			}
		}
	}
	a.Latency, a.Response = service.percentiles(), response.percentiles()
	switch {
	case scheduled == 0:
		a.Correction = NotCorrected
	case scheduled < oks:
		a.Correction = fmt.Sprintf("open loop: corrected for coordinated omission on %s of %s; the others had no schedule", group(scheduled), count(oks, "send"))
	default:
		a.Correction = "open loop: corrected for coordinated omission"
	}
}
