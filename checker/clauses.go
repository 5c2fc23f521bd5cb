package checker

// ClauseDoc says in one sentence what a clause promises; "" for an unknown name.
func ClauseDoc(name string) string { return clauseDocs[name] }

var clauseDocs = map[string]string{
	ClauseSurvives:      "an acknowledged message is never lost",
	ClauseDivergence:    "the replicas of a partition hold the same messages at the same offsets",
	ClauseDuplicate:     "a message that was sent once stands in the log once",
	ClausePhantom:       "whatever is read was sent, to that partition, in this run, and is unaltered",
	ClauseResurrected:   "a send that certainly failed never becomes visible",
	ClauseMoved:         "an acknowledged message stays at the offset that its acknowledgement named",
	ClauseInconsistent:  "an offset shows the same message to every reader, at every time",
	ClauseDirtyRead:     "what a consumer has read stays in the log",
	ClauseMonotonic:     "a consumer that reads on skips nothing and never goes back",
	ClauseOrder:         "messages of one producer stand in the order in which it sent them",
	ClauseSplitBrain:    "a partition has at most one leader in a leader epoch",
	ClauseLinearizable:  "appends and reads take effect in one order that agrees with real time",
	ClauseStale:         "a read shows everything that was acknowledged before it began",
	ClauseInSync:        "a write is acknowledged only while the least number of replicas is in sync",
	ClauseConsumedOnce:  "a message of a queue is consumed once",
	ClauseSettled:       "what was accepted or rejected, and confirmed, is not delivered again",
	ClauseRedelivers:    "what a consumer had not settled when it left is delivered again",
	ClauseExclusive:     "a message is given to nobody else while its lock holds",
	ClauseMaxDeliveries: "a message is delivered only so often",
	ClauseDeadLetters:   "what is rejected or delivered too often goes to the dead letters, and nothing else does",
	ClauseTruthfulEmpty: "a queue says that it is empty only where it is",
	ClauseFIFO:          "what goes into a queue first comes out first",
	ClauseTransactions:  "who reads committed transactions sees all of one, or nothing",
	ClauseRecovers:      "after the last fault is healed every partition takes writes again, in time",
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
		ClassTaken, ClassAfterSettlement, ClassNeverRedelivered, ClassWhileHeld, ClassTooManyTimes, ClassNotDeadLettered, ClassDeadTooEarly, ClassFalseEmpty, ClassNotFIFO, ClassAbortedRead,
		ClassUncommittedRead, ClassTornTransaction,
	}
}
