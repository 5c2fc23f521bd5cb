package harness

import (
	"context"
	"testing"
	"time"
)

func BenchmarkSim(b *testing.B) {
	p := DefaultPlan()
	p.Environment = "sim"
	p.Time = 90 * time.Second
	p.Faults = []string{"partition", "kill", "pause", "power"}
	p, err := p.Resolve()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, _, err := Simulate(context.Background(), p); err != nil {
			b.Fatal(err)
		}
	}
}
