package checker

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/internal/seeded"
)

const (
	byOracle    = "TestAgainstOracle"
	bySituation = "TestAnomalies"
	byPorcupine = "TestPartitionsAgainstPorcupine"
	byPlain     = "TestPlainPartitions"
	byWitness   = "TestWitness"
	byQueue     = "Test(QueuesSurvive|Exclusive)"

	byTransactions = "TestTransactions"
)

// bugs are changes to the source of the clauses, each of which makes one wrong, with
// the test that must find it.
var bugs = []seeded.Bug{
	{Name: "a value is one number off", File: "ids.go", Old: "return op - 1, op != 0\n		}\n		return 0, false", With: "return max(op-2, 0), op != 0\n		}\n		return 0, false", Run: byOracle},
	{Name: "the last of two sends counts as the first", File: "ids.go", Old: "if *slot != 0 {\n		return false\n	}", With: "", Run: byOracle},
	{Name: "reused values are not noted", File: "view.go", Old: "			v.reused[value] = true", With: "			v.reused[value] = false", Run: byOracle},
	{Name: "a poll enters its value", File: "view.go", Old: "			v.traits[i] = isPoll\n", With: "			p.values.add(op.Value, op.Call)\n			p.sends[op.Key]++\n			v.traits[i] = isPoll | isSend\n", Run: byOracle},
	{Name: "a drain before all were in sync proves loss", File: "view.go", Old: "case !d.InSync:", With: "case !d.InSync && !d.Quiet:", Run: byOracle},
	{Name: "a drain with open connections proves loss", File: "view.go", Old: "case !d.Quiet:", With: "case !d.Quiet && !d.InSync:", Run: byOracle},
	{Name: "a leader that was not read to its end proves loss", File: "view.go", Old: "case !k.leader.readable:", With: "case false:", Run: byOracle},
	{Name: "a follower that lags completes the drain", File: "view.go", Old: "		case !r.readable:\n			k.why", With: "		case false:\n			k.why", Run: byOracle},
	{Name: "a follower of another epoch completes the drain", File: "view.go", Old: "case r.Epoch != k.leader.Epoch:", With: "case false:", Run: byOracle},
	{Name: "a log that holds a message twice is plain", File: "view.go", Old: "case v.found.at(op) != history.NoOffset:\n			p.plain = false", With: "case v.found.at(op) != history.NoOffset:", Run: byOracle},
	{Name: "the last of two places is that of a message", File: "view.go", Old: "min(at, log[i].Offset)", With: "max(at, log[i].Offset)", Run: byOracle},
	{Name: "values of which two parts have one are entered side by side", File: "ids.go", Old: "if of[p].first <= last {", With: "if of[p].first < last {", Run: byOracle},
	{Name: "messages in the wrong order are in order", File: "view.go", Old: "p.ordered && op+1 > of.last", With: "p.ordered", Run: byOracle},
	{Name: "two stretches of a log in the wrong order are in order", File: "view.go", Old: "k.ordered && of.first > last[producer]", With: "k.ordered", Run: byOracle},
	{Name: "an offset of 32 bits is one number off", File: "view.go", Old: "return int64(s) - 1\n	}\n	return o.far[i]", With: "return max(int64(s)-2, history.NoOffset)\n	}\n	return o.far[i]", Run: byOracle},
	{Name: "a long offset is none", File: "view.go", Old: "	return o.far[i]", With: "	return history.NoOffset", Run: byOracle},
	{Name: "calls in any order are in that of ID", File: "ids.go", Old: "inOrder := s.to <= later.from", With: "inOrder := true", Run: byOracle},
	{Name: "an offset that a log has twice is smooth", File: "view.go", Old: " || j > 0 && a.Offset <= log[j-1].Offset {", With: " {", Run: "TestOffsetTwice"},
	{Name: "a smooth poll begins anywhere", File: "reads.go", Old: "n = 1 // behind", With: "n = 0 // behind", Run: byOracle},
	{Name: "deliveries are held against an unproven drain", File: "view.go", Old: "if k.decisive && k.leader != nil {\n		log = k.leader.log", With: "if k.leader != nil {\n		log = k.leader.log", Run: byOracle},
	{Name: "a delivered value in another's place is not odd", File: "view.go", Old: "if log[n].Value == rec.Value && log[n].Payload == rec.Payload {", With: "if log[n].Payload == rec.Payload {", Run: byOracle},
	{Name: "an altered delivery is not odd", File: "view.go", Old: "if log[n].Value == rec.Value && log[n].Payload == rec.Payload {", With: "if log[n].Value == rec.Value {", Run: byOracle},
	{Name: "acks=0 promises something", File: "view.go", Old: "op.Kind == history.Send && op.Outcome == history.OK && op.Acked", With: "op.Kind == history.Send && op.Outcome == history.OK", Run: byOracle},
	{Name: "an indeterminate send is lost", File: "survives.go", Old: "case !ack:\n", With: "case op.Outcome == history.Failed:\n", Run: byOracle},
	{Name: "what was trimmed is lost", File: "survives.go", Old: "return k.leader.Start == 0 || op.Offset >= k.leader.Start", With: "return true", Run: byOracle},
	{Name: "what a trimmed log still covers is not lost", File: "survives.go", Old: "op.Offset >= k.leader.Start", With: "op.Offset > k.leader.Start", Run: byOracle},
	{Name: "late is what any earlier drain showed", File: "survives.go", Old: "return !slices.ContainsFunc(k.earlier,", With: "return slices.ContainsFunc(k.earlier,", Run: byOracle},
	{Name: "a lost tail is no loss", File: "survives.go", Old: "		v.addLost(c, k, gone)", With: "		if len(gone) > 0 && gone[len(gone)-1] != k.sends[len(k.sends)-1] {\n			v.addLost(c, k, gone)\n		}", Run: byOracle},
	{Name: "a duplicate needs three places", File: "values.go", Old: "if len(at) < 2 {", With: "if len(at) < 3 {", Run: byOracle},
	{Name: "a value that was sent twice is a duplicate", File: "values.go", Old: "if v.reused[value] || slices.Contains(offsets[value], offset) {", With: "if slices.Contains(offsets[value], offset) {", Run: byOracle},
	{Name: "what was sent to another partition is no phantom", File: "values.go", Old: "op.Key != k.index && !v.reused[s.value]", With: "op.Key < 0", Run: byOracle},
	{Name: "a phantom is told once for each reader", File: "values.go", Old: "if class == \"\" || seen[s] {", With: "if class == \"\" {", Run: bySituation},
	{Name: "an indeterminate send is resurrected", File: "values.go", Old: "if v.traits[i]&refused == 0 ||", With: "if v.h.Ops[i].Outcome == history.OK ||", Run: byOracle},
	{Name: "what was only delivered is not resurrected", File: "values.go", Old: "if o := delivered[op.Value]; o != nil {", With: "if o := delivered[op.Value]; o != nil && v.found.at(i) != history.NoOffset {", Run: byOracle},
	{Name: "moved, although delivered where it was acknowledged", File: "values.go", Old: "return o.offset == op.Offset }) {", With: "return o.offset == op.Offset+1 }) {", Run: byOracle},
	{Name: "what was only delivered has not moved", File: "values.go", Old: "case len(delivered) > 0:", With: "case len(delivered) > 1:", Run: byOracle},
	{Name: "an offset is consistent with its neighbour", File: "values.go", Old: "claims[j].offset == first.offset; j++", With: "claims[j].offset <= first.offset+1; j++", Run: byOracle},
	{Name: "an acknowledgement is no claim", File: "values.go", Old: "if ct.Acknowledged || ct.Expect != \"declared\" {", With: "if ct.Acknowledged && ct.Expect == \"declared\" {", Run: byOracle},
	{Name: "a delivery is a claim where reads are uncommitted", File: "values.go", Old: "		if ct.CommittedReads {", With: "		if true {", Run: byOracle},
	{Name: "what an indeterminate send wrote is never a dirty read", File: "reads.go", Old: "if !k.gone(v, &v.h.Ops[send]) {", With: "if !k.gone(v, &v.h.Ops[send]) || v.h.Ops[send].Outcome == history.Indeterminate {", Run: byOracle},
	{Name: "a dirty read is told once for each offset", File: "reads.go", Old: "		dirty[o.value] = true", With: "", Run: byOracle},
	{Name: "the same offset again is no step back", File: "reads.go", Old: "rec.Offset <= last {", With: "rec.Offset < last {", Run: byOracle},
	{Name: "a reset binds", File: "reads.go", Old: "!op.Reset && prev.Epoch == op.Epoch", With: "prev.Epoch == op.Epoch", Run: byOracle},
	{Name: "a new epoch binds", File: "reads.go", Old: "!op.Reset && prev.Epoch == op.Epoch", With: "!op.Reset", Run: byOracle},
	{Name: "an empty poll does not reset", File: "view.go", Old: "				r.poll = noPoll\n", With: "", Run: byOracle},
	{Name: "a gap is skipped", File: "reads.go", Old: "if k.leader.log[n].Payload == history.Good {\n			jumped = n\n			break\n		}", With: "jumped = n\n		break", Run: byOracle},
	{Name: "a first poll may begin late", File: "reads.go", Old: "if want < 0 && first {", With: "if want < 0 && first && op.Reset {", Run: byOracle},
	{Name: "two consumers are one", File: "view.go", Old: "r := &readers[op.Client]", With: "r := &readers[max(op.Client-1, 0)]", Run: byOracle},
	{Name: "a record between two smooth polls is not passed", File: "view.go", Old: " || n == 0 || log[n-1].Offset != r.last {", With: " {", Run: byOracle},
	{Name: "a smooth poll after a reset is not judged", File: "view.go", Old: "r.poll < 0 || op.Reset ||", With: "r.poll < 0 ||", Run: byOracle},
	{Name: "a smooth poll of another epoch is not judged", File: "view.go", Old: " || r.epoch != op.Epoch ||", With: " ||", Run: byOracle},
	{Name: "the polls of a stretch begin anew", File: "view.go", Old: "				s.before = last[v.h.Ops[s.poll].Client]\n", With: "				s.before = noPoll\n", Run: byOracle},
	{Name: "an acknowledgement at the time of the call is before it", File: "reads.go", Old: "v.h.Ops[acks[n]].Return < op.Call", With: "v.h.Ops[acks[n]].Return <= op.Call", Run: byOracle},
	{Name: "a read that saw just less is fresh", File: "reads.go", Old: "saw > v.h.Ops[newest].Offset {", With: "saw >= v.h.Ops[newest].Offset {", Run: byOracle},
	{Name: "the last acknowledgement is the newest", File: "reads.go", Old: "if newest < 0 || v.h.Ops[acks[n]].Offset > v.h.Ops[newest].Offset {", With: "if true {", Run: byOracle},
	{Name: "messages that were sent at once have an order", File: "order.go", Old: "v.h.Ops[byReturn[n]].Return < later.Call", With: "v.h.Ops[byReturn[n]].Return <= later.Call", Run: byOracle},
	{Name: "only the message before counts", File: "order.go", Old: "if highest < 0 || places(byReturn[n]) > places(highest) {", With: "if true {", Run: byOracle},
	{Name: "two producers have one order", File: "order.go", Old: "if p := op.Value.Producer(); p != last {", With: "if p := int32(0); p != last {", Run: byOracle},
	{Name: "epochs of replicas may differ", File: "replicas.go", Old: "a.Value == b.Value && a.Payload == b.Payload && a.Epoch == b.Epoch", With: "a.Value == b.Value && a.Payload == b.Payload", Run: byOracle},
	{Name: "a record that a follower lacks is no divergence", File: "replicas.go", Old: "if a != nil && b != nil && same(*a, *b) {", With: "if b == nil || a != nil && same(*a, *b) {", Run: byOracle},
	{Name: "a follower that lags diverges", File: "replicas.go", Old: "if r != k.leader && r.readable {", With: "if r != k.leader {", Run: byOracle},
	{Name: "one leader that says so twice is two", File: "leaders.go", Old: "if other.Node == e.Node || told[id] {", With: "if told[id] {", Run: bySituation},
	{Name: "a later epoch is the same", File: "leaders.go", Old: "other := first[e.Epoch]", With: "other := first[e.Epoch&^1]", Run: bySituation},
	{Name: "a report that is missing is not missed", File: "insync.go", Old: "if int64(b-a) != next.Seq-e.Seq {", With: "if b < a {", Run: bySituation},
	{Name: "two in sync are too few for two", File: "insync.go", Old: "len(e.ISR) >= least", With: "len(e.ISR) > least", Run: bySituation},
	{Name: "the watermark itself was passed", File: "insync.go", Old: "op.Offset >= w.to {", With: "op.Offset > w.to {", Run: bySituation},
	{Name: "an append is over when it failed to be answered", File: "linearizable.go", Old: "	if !acked(op) || v.reused[op.Value] {\n		return history.Infinity\n	}\n", With: "", Run: byPorcupine},
	{Name: "a read shows its first record alone", File: "linearizable.go", Old: "last = max(last, op.Records[j].Offset)", With: "if last == history.NoOffset {\n				last = op.Records[j].Offset\n			}", Run: byPorcupine},
	{Name: "plain: what failed may stand in the log", File: "linearizable.go", Old: "return found != history.NoOffset\n", With: "return false\n", Run: byPlain},
	{Name: "plain: an acknowledged message may be absent", File: "linearizable.go", Old: "return found == history.NoOffset ||", With: "return found != history.NoOffset &&", Run: byPlain},
	{Name: "plain: a delivery that the log does not show is forgotten", File: "linearizable.go", Old: "|| len(v.odd(k)) > 0 {", With: "{", Run: byPlain},
	{Name: "plain: reads are forgotten", File: "linearizable.go", Old: "			positions.Get(p, op.Return)\n", With: "", Run: byPlain},
	{Name: "plain: ends are forgotten", File: "linearizable.go", Old: "			positions.End(end, op.Call, op.Return)\n", With: "", Run: byPlain},
	{Name: "an acknowledged message may be absent", File: "linearizable.go", Old: "case v.found.at(i) == history.NoOffset:\n			l.breakAt", With: "case v.found.at(i) < history.NoOffset:\n			l.breakAt", Run: byPorcupine},
	{Name: "an acknowledged offset may be another", File: "linearizable.go", Old: "case op.Offset != history.NoOffset && op.Offset != v.found.at(i):", With: "case op.Offset != history.NoOffset && op.Offset > v.found.at(i):", Run: byPorcupine},
	{Name: "what failed may stand in the log", File: "linearizable.go", Old: "case v.h.Ops[send].Outcome == history.Failed:", With: "case v.h.Ops[send].Outcome == history.Pending:", Run: byPorcupine},
	{Name: "a delivery that the log does not show is forgotten", File: "linearizable.go", Old: "strays := v.odd(k); len(strays) > 0", With: "strays := v.odd(k); len(strays) > 1", Run: byPorcupine},
	{Name: "a duplicate has one place less among its operations", File: "values.go", Old: "polls[o.value] = append(polls[o.value], v.h.Ops[o.first].ID)", With: "_ = polls", Run: "TestEveryOpIsNamed"},
	{Name: "a witness forgets what replicas hold", File: "witness.go", Old: "		case aDrained:\n			drained[a.of]", With: "		case aDrained + 9:\n			drained[a.of]", Run: byWitness},
	{Name: "a witness is not thinned to single atoms", File: "witness.go", Old: "				from += size", With: "				from += 2 * size", Run: byWitness},
	{Name: "queues: what was received counts as consumed", File: "queue_survives.go", Old: "case consumes && len(m.takes) > 0:", With: "case len(m.takes) > 0:", Run: byQueue},
	{Name: "queues: an acceptance that failed counts", File: "queue.go", Old: "s.Kind == k && s.Outcome != history.Failed })", With: "s.Kind == k })", Run: byQueue},
	{Name: "queues: what somebody else holds leaves a drain whole", File: "queue.go", Old: "case r.Unacknowledged != int64(len(r.log)):", With: "case r.Unacknowledged < int64(len(r.log)):", Run: byQueue},
	{Name: "queues: a lock is taken from the answer on", File: "queue_settle.go", Old: "until = min(later(t.op.Call, t.op.Lock)", With: "until = min(later(t.op.Return, t.op.Lock)", Run: byQueue},
	{Name: "queues: a settlement without an answer proves a lock", File: "queue_settle.go", Old: "settled.Of != t.op.ID || settled.Outcome != history.OK", With: "settled.Of != t.op.ID", Run: byQueue},
	{Name: "queues: a commit without an answer is none", File: "transactions.go", Old: "case op.Outcome == history.Failed: // it", With: "case op.Outcome != history.OK: // it", Run: byTransactions},
	{Name: "queues: who reads everything is a witness", File: "transactions.go", Old: "op.Kind == history.Poll && op.Committed ||", With: "op.Kind == history.Poll ||", Run: byTransactions},
	{Name: "queues: what a reader has not come to is passed over", File: "transactions.go", Old: "end := op.Records[len(op.Records)-1].Offset", With: "end := op.Records[len(op.Records)-1].Offset + 9", Run: byTransactions},
}

// TestBugs seeds one bug after another into the clauses: the test that it names must
// fail with it. It builds the package once for each, so it runs only on request:
// FAULTLINE_CHECKER_BUGS=1.
func TestBugs(t *testing.T) {
	if os.Getenv(seeded.Switch) == "" {
		t.Skip("seeds bugs into the source, one build each: make test-checkers")
	}
	for _, bug := range bugs {
		t.Run(bug.Name, func(t *testing.T) {
			t.Parallel()
			require.NoError(t, seeded.Find(t.Context(), t.TempDir(), bug, regexp.MustCompile(`--- FAIL: `+bug.Run+`|panic: `)))
		})
	}
}
