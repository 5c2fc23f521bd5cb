package harness

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

func TestTry(t *testing.T) {
	p := DefaultPlan()
	p.Environment = "sim"
	p.Time = 60 * time.Second
	if f := os.Getenv("FAULTS"); f != "" {
		p.Faults = []string{f}
	}
	if a := os.Getenv("ACKS"); a != "" {
		p.Options["acks"] = a
	}
	p, err := p.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	h, _ := Header(p, "run", time.Now())
	rec := history.NewRecorder(h)
	start := time.Now()
	ex, err := Execute(context.Background(), Config{Plan: p, RunID: "run"}, rec, t.TempDir())
	fmt.Println(err, ex.Err, ex.Digest, time.Since(start), ex.Duration)
	hist := rec.History()
	hist.Closed = true
	fmt.Println("rec err", rec.Err(), len(hist.Ops), len(hist.Events))
	for _, e := range hist.Events {
		if os.Getenv("EV") != "" {
			fmt.Printf("%v %+v\n", time.Duration(e.At), e)
		}
	}
	for _, f := range hist.Faults {
		fmt.Println(time.Duration(f.At), f.Name, f.Stage, f.Targets, f.Detail)
	}
	for _, f := range hist.Drains {
		fmt.Printf("%+v\n", f)
	}
	start = time.Now()
	res, err := checker.Run(context.Background(), hist, checker.Options{})
	fmt.Println(err, time.Since(start))
	if err == nil {
		fmt.Println(res.Verdict, res.Sentence)
		for _, c := range res.Checks {
			fmt.Println("  ", c.Name, c.Verdict, c.Detail)
			for i, a := range c.Anomalies {
				if i < 3 {
					fmt.Println("       ", a.Text, a.Cause, a.Fault)
				}
			}
		}
		fmt.Println(res.WhyInconclusive, res.Exercised, res.Counts)
	}
}
