package harness

import (
	"fmt"
	"testing"
	"time"
	"os"
)

func TestZZProf(t *testing.T) {
	if os.Getenv("ZZ") == "" { t.Skip() }
	for seed := uint64(100); seed < 116; seed++ {
		p, err := SwarmPlan(func() Plan { p := DefaultPlan(); p.Environment = "sim"; return p }(), seed)
		if err != nil { t.Fatal(err) }
		b := time.Now()
		r := Try(t.Context(), p)
		fmt.Println(seed, time.Since(b).Round(time.Millisecond), r.Virtual.Round(time.Second), p.Nodes, p.Clients, p.Rate, p.Size, p.Options["partitions"], p.Options["segment.bytes"], p.Options["quorum.tick.ms"],p.Options["replica.fetch.wait.max.ms"], r.Operations, r.Acknowledged, r.Verdict)
	}
}
