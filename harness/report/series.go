package report

import (
	"math"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
)

// Numbers of buckets: what the static picture shows, and what zooming shows.
const (
	coarseBuckets = 240
	fineBuckets   = 2400
	minBucket     = int64(10e6) // 10 ms: below that a rate is noise
)

// series holds sends per bucket of time. Outcomes are counted where the answer
// came (an operation without answer where it was called), latencies are those
// of ok sends, in milliseconds, -1 where a bucket has none.
type series struct {
	Width  float64   `json:"w"` // milliseconds
	OK     []int     `json:"ok"`
	Failed []int     `json:"failed"`
	Ind    []int     `json:"ind"`
	P50    []float64 `json:"p50"`
	P99    []float64 `json:"p99"`
	Max    []float64 `json:"max"`
}

// sendSeries counts the sends of h over [0, span) nanoseconds.
func sendSeries(h *history.History, span int64, buckets int) series {
	width := max((span+int64(buckets)-1)/int64(buckets), minBucket)
	n := int((span + width - 1) / width)
	s := series{
		Width: toMS(width), OK: make([]int, n), Failed: make([]int, n), Ind: make([]int, n),
		P50: make([]float64, n), P99: make([]float64, n), Max: make([]float64, n),
	}
	lat := make([][]float32, n)
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind != history.Send {
			continue
		}
		at := op.Return
		if at == history.Infinity {
			at = op.Call
		}
		b := int(at / width)
		if at < 0 || b >= n {
			continue
		}
		switch op.Outcome {
		case history.OK:
			s.OK[b]++
			lat[b] = append(lat[b], float32(op.Return-op.Call)/1e6)
		case history.Failed:
			s.Failed[b]++
		default:
			s.Ind[b]++
		}
	}
	for b, l := range lat {
		if len(l) == 0 {
			s.P50[b], s.P99[b], s.Max[b] = -1, -1, -1
			continue
		}
		slices.Sort(l)
		s.P50[b], s.P99[b], s.Max[b] = quantile(l, 0.5), quantile(l, 0.99), quantile(l, 1)
	}
	return s
}

// quantile is the nearest-rank quantile of the sorted l, to 10 µs.
func quantile(l []float32, q float64) float64 {
	i := max(int(math.Ceil(q*float64(len(l))))-1, 0)
	return math.Round(float64(l[i])*100) / 100
}

// timeSpan is the length of the time axis: up to the last thing that happened.
func timeSpan(run Run, h *history.History) int64 {
	end := int64(run.Duration)
	for _, p := range h.Phases {
		end = max(end, p.At)
	}
	for _, f := range h.Faults {
		end = max(end, f.At)
	}
	for _, d := range h.Drains {
		end = max(end, d.At)
	}
	for i := range h.Ops {
		if r := h.Ops[i].Return; r != history.Infinity {
			end = max(end, r)
		} else {
			end = max(end, h.Ops[i].Call)
		}
	}
	return max(end+1, int64(1e9))
}
