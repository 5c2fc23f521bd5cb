package driver

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/faultline-mq/faultline/broker"
)

// lane executes one partition log's operations in the order in which the node
// asked for them, on a goroutine that lives while there are any. What waits is
// bounded by the requests in progress, of which every connection has one.
type lane struct {
	d    *driver
	name broker.Lane

	mu      sync.Mutex
	ops     []func()
	running bool
	syncing bool // a sync is queued or under way
	again   bool // and another is wanted after it
	removed bool

	// Used by operations alone.
	written, synced uint64
	failed          bool
	closed          bool // the log was removed
}

// lane returns the queue of a log. It is called by the node's goroutine only.
func (d *driver) lane(name broker.Lane) *lane {
	l := d.lanes[name]
	if l == nil {
		l = &lane{d: d, name: name}
		d.lanes[name] = l
	}
	return l
}

func (l *lane) do(op func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enqueue(op)
}

func (l *lane) enqueue(op func()) {
	l.ops = append(l.ops, op)
	if !l.running {
		l.running = true
		l.d.work.Go(l.run)
	}
}

func (l *lane) run() {
	for {
		l.mu.Lock()
		ops := l.ops
		l.ops = nil
		if len(ops) == 0 {
			l.running = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for _, op := range ops {
			if !l.failed && !l.d.abandoned.Load() {
				op()
			}
		}
	}
}

// report tells the node how far this lane is. After an error nothing more is done in it.
func (l *lane) report(err error) {
	if err != nil {
		l.failed = true
		l.d.post(broker.Stored{Lane: l.name, Err: err})
		return
	}
	l.d.post(broker.Stored{Lane: l.name, Written: l.written, Synced: l.synced})
}

// submit queues an operation whose only outcome of interest is its failure.
func (l *lane) submit(op func() error) {
	l.do(func() {
		if err := op(); err != nil {
			l.report(err)
		}
	})
}

// write queues an append or a truncation.
func (l *lane) write(seq uint64, op func() error) {
	l.do(func() {
		err := op()
		if err == nil {
			l.written = seq
		}
		l.report(err)
	})
}

// sync queues a sync. Those asked for while one is queued or under way become
// one, after it: group commit.
func (l *lane) sync() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.syncing {
		l.again = true
		return
	}
	l.syncing = true
	l.enqueue(l.syncNow)
}

func (l *lane) syncNow() {
	if !l.closed && l.synced < l.written {
		begin := time.Now()
		err := l.d.store.Sync(l.name)
		l.d.metrics.syncs.Observe(time.Since(begin).Seconds())
		if err == nil {
			l.synced = l.written
		}
		l.report(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.syncing = l.again; l.syncing {
		l.again = false
		l.enqueue(l.syncNow)
	}
}

func (l *lane) open() {
	l.submit(func() error {
		l.closed = false
		return l.d.store.OpenLane(l.name)
	})
}

func (l *lane) remove() {
	l.submit(func() error {
		l.closed = true
		return l.d.store.RemoveLane(l.name)
	})
}

// device queues an operation on the shared storage device. Its errors are the
// node's to judge: they end nothing here.
func (l *lane) device(e broker.Device) {
	l.do(func() {
		done := l.d.store.Device(e)
		switch e.Do {
		case broker.OpenLog:
			l.closed = false
			l.synced = l.written // what this process wrote before is not its own any more
		case broker.CloseLog, broker.RemoveLog:
			l.closed = true
		}
		l.d.post(done)
	})
}

// idle reports that nothing is queued or under way.
func (l *lane) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.running
}

// filled reads slices, each in its lane's order, and runs then once all are in
// place: at once where there are none, otherwise on a lane's goroutine.
func (d *driver) filled(slices []broker.Slice, then func()) {
	if len(slices) == 0 {
		then()
		return
	}
	var left atomic.Int64
	left.Store(int64(len(slices)))
	for _, s := range slices {
		d.lane(s.Lane).do(func() {
			data, err := d.store.Read(s)
			if err != nil {
				d.post(broker.ReadFailed{Lane: s.Lane, Offset: s.From, Err: err})
				return
			}
			*s.Into = data
			if left.Add(-1) == 0 {
				then()
			}
		})
	}
}

// metaLane executes the metadata log's appends in order. Those that wait
// together are written with one sync.
type metaLane struct {
	d       *driver
	mu      sync.Mutex
	queue   []broker.MetaAppend
	running bool
	failed  bool // used by run alone
}

func (l *metaLane) do(e broker.MetaAppend) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, e)
	if !l.running {
		l.running = true
		l.d.work.Go(l.run)
	}
}

func (l *metaLane) run() {
	for {
		l.mu.Lock()
		queue := l.queue
		l.queue = nil
		if len(queue) == 0 {
			l.running = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for _, e := range merged(queue) {
			if l.failed || l.d.abandoned.Load() {
				continue
			}
			err := l.d.store.Meta(e)
			l.failed = err != nil
			l.d.post(broker.MetaStored{Seq: e.Seq, Err: err})
		}
	}
}

// merged joins each append with the ones that follow it; a snapshot replaces the
// log and begins anew.
func merged(queue []broker.MetaAppend) []broker.MetaAppend {
	var out []broker.MetaAppend
	for _, e := range queue {
		if n := len(out); n > 0 && !e.Snapshot {
			out[n-1].Seq = e.Seq
			out[n-1].Records = append(out[n-1].Records[:len(out[n-1].Records):len(out[n-1].Records)], e.Records...)
			continue
		}
		out = append(out, e)
	}
	return out
}
