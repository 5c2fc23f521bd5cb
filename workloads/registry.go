package workloads

import (
	"fmt"
	"strings"

	"github.com/faultline-mq/faultline/checker"
)

// Workload is one entry of the catalogue.
type Workload struct {
	Name        string
	Description string
	Clauses     []string // the clauses that judge it, as package checker names them
	build       func(Config) []ClientSpec
}

// Clients builds the workload's clients. It refuses what Config.Validate refuses.
func (w Workload) Clients(c Config) ([]ClientSpec, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("workload %s: %w", w.Name, err)
	}
	return w.build(c), nil
}

// Known lists the workloads of the catalogue.
func Known() []Workload {
	return []Workload{{
		Name:        "log",
		Description: "producers send unique values to several partitions, and pollers read them from offset 0 on",
		Clauses: []string{
			checker.ClauseSurvives,
			checker.ClauseDivergence,
			checker.ClauseDuplicate,
			checker.ClausePhantom,
			checker.ClauseResurrected,
			checker.ClauseMoved,
			checker.ClauseInconsistent,
			checker.ClauseDirtyRead,
			checker.ClauseMonotonic,
			checker.ClauseOrder,
			checker.ClauseSplitBrain,
			checker.ClauseInSync,
			checker.ClauseLinearizable,
			checker.ClauseStale,
			checker.ClauseRecovers,
		},
		build: Log,
	}, {
		Name:        "queue",
		Description: "producers put unique values into queues, and consumers take them, settle them or leave without doing so",
		Clauses: []string{
			checker.ClauseSurvives,
			checker.ClausePhantom,
			checker.ClauseResurrected,
			checker.ClauseConsumedOnce,
			checker.ClauseSettled,
			checker.ClauseRedelivers,
			checker.ClauseExclusive,
			checker.ClauseMaxDeliveries,
			checker.ClauseDeadLetters,
			checker.ClauseTruthfulEmpty,
			checker.ClauseOrder,
			checker.ClauseFIFO,
			checker.ClauseSplitBrain,
			checker.ClauseRecovers,
		},
		build: Queue,
	}}
}

// Lookup returns the workload called name. An unknown name is an error that
// lists the known ones.
func Lookup(name string) (Workload, error) {
	var names []string
	for _, w := range Known() {
		if w.Name == name {
			return w, nil
		}
		names = append(names, w.Name)
	}
	return Workload{}, fmt.Errorf("unknown workload %q: known are %s", name, strings.Join(names, ", "))
}
