package checker

import "math"

// logOp is one operation on an append-only log whose appends have known
// positions: dense ranks 0, 1, 2, … of the offsets that the log really has, so
// gaps in the offsets do not matter.
type logOp struct {
	id     int64 // the operation in the history
	call   int64
	ret    int64 // history.Infinity where it was never answered
	isRead bool
	// pos is the position that an append took. A read proved that positions
	// below it were there (0: it proved nothing).
	pos int
	// exact is the length of the log at the time of a fresh read, which proves
	// what is below it as well; or -1 where a read says nothing about what it did
	// not return.
	exact int
}

// logWitness proves that a log is not linearizable: position early (and all
// after it) took effect only after lowest, position late (and all before it)
// before highest returned, and late is not before early.
type logWitness struct {
	early, late       int   // early <= late
	lowest, highest   int64 // operations: lowest was called after highest had returned
	lowCall, highRtrn int64
}

// decideLog decides in O(n) whether ops are linearizable: whether each append
// and read can be given a moment within its closed interval such that appends
// take effect in the order of their positions, and each read sees what it
// proved. It is exact for logs of n positions, each with one append.
//
// Position p takes effect at lo(p) at the earliest: the latest call of its append
// and of the reads that saw a length of at most p. It has taken effect by hi(p):
// the earliest return of its append and of the reads that returned a position at
// or after it. As moments do not decrease along the positions, the log is legal
// exactly if no lo exceeds the hi of its own or a later position: the running
// maximum of lo never exceeds hi.
func decideLog(n int, ops []logOp) (*logWitness, bool) {
	type bound struct {
		t  int64
		op int64
		at int
	}
	lo := make([]bound, n)
	hi := make([]bound, n)
	for p := range n {
		lo[p] = bound{math.MinInt64, -1, p}
		hi[p] = bound{math.MaxInt64, -1, p}
	}
	for i := range ops {
		op := &ops[i]
		if !op.isRead {
			if op.call > lo[op.pos].t {
				lo[op.pos] = bound{op.call, op.id, op.pos}
			}
			if op.ret < hi[op.pos].t {
				hi[op.pos] = bound{op.ret, op.id, op.pos}
			}
			continue
		}
		if last := max(op.pos, op.exact) - 1; last >= 0 && op.ret < hi[last].t {
			hi[last] = bound{op.ret, op.id, last}
		}
		if op.exact >= 0 && op.exact < n && op.call > lo[op.exact].t {
			lo[op.exact] = bound{op.call, op.id, op.exact}
		}
	}
	var highest bound
	for p := range n {
		if p == 0 || lo[p].t > highest.t {
			highest = lo[p]
		}
		if highest.t > hi[p].t {
			return &logWitness{
				early: highest.at, late: hi[p].at,
				lowest: highest.op, highest: hi[p].op,
				lowCall: highest.t, highRtrn: hi[p].t,
			}, false
		}
	}
	return nil, true
}
