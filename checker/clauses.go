package checker

// ClauseDoc says in one sentence what a clause promises; "" for an unknown name.
func ClauseDoc(name string) string { return clauseDocs[name] }

var clauseDocs = map[string]string{
	ClauseSurvives:     "an acknowledged message is never lost",
	ClauseDivergence:   "the replicas of a partition hold the same messages at the same offsets",
	ClauseDuplicate:    "a message that was sent once stands in the log once",
	ClausePhantom:      "whatever is read was sent, to that partition, in this run, and is unaltered",
	ClauseResurrected:  "a send that certainly failed never becomes visible",
	ClauseMoved:        "an acknowledged message stays at the offset that its acknowledgement named",
	ClauseInconsistent: "an offset shows the same message to every reader, at every time",
	ClauseDirtyRead:    "what a consumer has read stays in the log",
	ClauseMonotonic:    "a consumer that reads on skips nothing and never goes back",
	ClauseOrder:        "messages of one producer stand in the order in which it sent them",
	ClauseSplitBrain:   "a partition has at most one leader in a leader epoch",
	ClauseLinearizable: "appends and reads take effect in one order that agrees with real time",
	ClauseStale:        "a read shows everything that was acknowledged before it began",
	ClauseInSync:       "a write is acknowledged only while the least number of replicas is in sync",
	ClauseRecovers:     "after the last fault is healed every partition takes writes again, in time",
}

// Clauses lists the names of all clauses, in the order of a report.
func Clauses() []string {
	names := make([]string, len(clauses))
	for i, c := range clauses {
		names[i] = c.name
	}
	return names
}

// Classes lists the classes of anomalies, those that are only counted too.
func Classes() []string {
	return []string{
		ClassLost, ClassUnseen, ClassLate, ClassSentLost, ClassDivergence, ClassDuplicate, ClassPhantom, ClassPhantomRun, ClassPhantomBytes, ClassResurrected, ClassMoved,
		ClassInconsistent, ClassDirtyRead, ClassSkip, ClassNonMonotonic, ClassReorder, ClassSplitBrain, ClassTooFew, ClassLinearizable, ClassStale, ClassNotRecovered,
	}
}
