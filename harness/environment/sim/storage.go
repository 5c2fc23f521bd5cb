package sim

import (
	"math/rand/v2"
	"time"
)

// lane is one FIFO queue of a node's disk.
type lane struct {
	last    time.Duration // completion of the newest operation
	pending []*storageOp
}

type opState uint8

const (
	opLive    opState = iota // reports to its process
	opLanding                // its process is gone, its effect still comes
	opDropped
)

// storageOp is one issued operation.
type storageOp struct {
	n     *node
	lane  *lane
	at    time.Duration
	state opState
	done  StorageDone
}

// latency draws the time that an operation takes once it is at its lane's head.
func (n *node) latency(r *rand.Rand, slow float64, k StorageKind, bytes int) time.Duration {
	m := &n.w.opts.Disk
	var d time.Duration
	if k == Sync {
		d = m.Sync.Base + min(time.Duration(r.ExpFloat64()*float64(m.SyncMean)), m.Sync.Jitter)
		if r.Float64() < m.Tail && m.TailMax > 0 {
			d += time.Duration(r.Int64N(int64(m.TailMax)))
		}
	} else {
		d = m.Op.draw(r) + time.Duration(int64(bytes)*int64(time.Second)/m.Throughput)
	}
	if slow != 1 {
		d = time.Duration(float64(d) * slow)
	}
	return d
}

func (h *host) Submit(name Lane, k StorageKind, bytes int, run Operation) Token {
	if !h.alive() {
		return 0
	}
	n := h.n
	l := n.laneOf[name]
	if l == nil {
		l = &lane{}
		n.laneOf[name] = l
		n.lanes = append(n.lanes, l)
	}
	n.tokens++
	slow := n.slow
	if name == MetaLane {
		slow = 1 // another disk
	}
	l.last = max(l.last, n.w.now) + n.latency(n.disk, slow, k, bytes)
	op := n.ops.Take()
	*op = storageOp{n: n, lane: l, at: l.last, done: StorageDone{Lane: name, Token: n.tokens, Op: run}}
	l.pending = append(l.pending, op)
	n.w.queue.push(op.at, action{kind: evStorage, on: op})
	return op.done.Token
}

func (o *storageOp) complete() {
	if o.state == opDropped {
		return
	}
	o.n.w.trace(evStorage, o.n.idx, uint64(o.done.Token)<<8|uint64(o.state))
	o.done.Op.Run()
	if o.state == opLanding {
		o.n.landing = removeFirst(o.n.landing, o)
		return
	}
	o.lane.pending = removeFirst(o.lane.pending, o)
	o.n.deliver(&o.done)
}

// removeFirst removes op, which is at or near the front.
func removeFirst(ops []*storageOp, op *storageOp) []*storageOp {
	for i := range ops {
		if ops[i] == op {
			copy(ops[1:i+1], ops[:i])
			ops[0] = nil
			return ops[1:]
		}
	}
	return ops
}

// orphanStorage decides what becomes of the operations that the ending process
// has issued: of each lane a prefix lands, or, when the power went, nothing.
func (n *node) orphanStorage(power bool) {
	for _, l := range n.lanes {
		keep := 0
		if !power && len(l.pending) > 0 {
			keep = n.disk.IntN(len(l.pending) + 1)
		}
		for i, op := range l.pending {
			if i >= keep {
				op.state = opDropped
				continue
			}
			op.state = opLanding
			n.landing = append(n.landing, op)
			n.landedBy = max(n.landedBy, op.at)
		}
	}
	n.lanes, n.laneOf = nil, nil
}

// dropLanding drops what former incarnations issued and has not landed yet.
func (n *node) dropLanding() {
	for _, op := range n.landing {
		op.state = opDropped
	}
	n.landing, n.landedBy = nil, 0
}
