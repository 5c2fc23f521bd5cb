package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/nemesis"
)

// Machines is what can be done to nodes beside cutting links, controlling
// processes and taking power.
func (w *World) Machines() nemesis.Machines {
	d := diskFaults{w}
	return nemesis.Machines{
		FullDisks: d, BadDisks: d, SlowDisks: d, LostDisks: d, Files: fileDamager{w}, Clocks: clocks{w}, Shaper: shaper{w}, Resetter: resetter{w},
		NewNodes: newNodes{w}, Locks: locks{w},
	}
}

// locks implements nemesis.LockRemover. The device is the same on all nodes.
type locks struct{ w *World }

var _ nemesis.LockRemover = locks{}

func (l locks) Files(ctx context.Context) (map[string]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return l.w.nodes[0].volume.Locks()
}

func (l locks) Remove(ctx context.Context, name string, replace bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return l.w.nodes[0].volume.RemoveLock(name, replace)
}

// diskFaults spoils nodes' data disks.
type diskFaults struct{ w *World }

var (
	_ nemesis.DiskFiller  = diskFaults{}
	_ nemesis.DiskBreaker = diskFaults{}
	_ nemesis.DiskSlower  = diskFaults{}
	_ nemesis.DiskWiper   = diskFaults{}
)

// Probe takes the time of a sync by the model of the node's disk.
func (d diskFaults) Probe(ctx context.Context, name string) (nemesis.DiskProbe, error) {
	n, err := d.w.node(ctx, "probe the disk of", name)
	if err != nil {
		return nemesis.DiskProbe{}, err
	}
	if err := n.volume.Probe(); err != nil {
		return nemesis.DiskProbe{Err: err}, nil
	}
	if n.probes == nil {
		n.probes = stream(d.w.opts.Seed, "probe/"+n.name) // the node's own stream must not shift
	}
	took := n.latency(n.probes, n.slow, Sync, 0)
	return nemesis.DiskProbe{Sync: took}, d.w.Sleep(ctx, took)
}

func (d diskFaults) Fill(ctx context.Context, name string) error {
	n, err := d.w.node(ctx, "fill the disk of", name)
	if err != nil {
		return err
	}
	n.volume.Fill(true)
	return nil
}

func (d diskFaults) Free(ctx context.Context, name string) error {
	n, err := d.w.node(ctx, "free the disk of", name)
	if err != nil {
		return err
	}
	n.volume.Fill(false)
	return nil
}

func (d diskFaults) Break(ctx context.Context, name string) error {
	n, err := d.w.node(ctx, "break the disk of", name)
	if err != nil {
		return err
	}
	n.volume.Break(true)
	return nil
}

func (d diskFaults) Mend(ctx context.Context, name string) error {
	n, err := d.w.node(ctx, "mend the disk of", name)
	if err != nil {
		return err
	}
	n.volume.Break(false)
	return nil
}

func (d diskFaults) Slow(ctx context.Context, name string, factor float64) error {
	return d.w.SlowDisk(ctx, name, factor)
}

func (d diskFaults) Quicken(ctx context.Context, name string) error {
	return d.w.SlowDisk(ctx, name, 1)
}

func (d diskFaults) Wipe(ctx context.Context, name string) error { return d.w.Wipe(ctx, name) }

func (d diskFaults) Stored(ctx context.Context, name string) (int64, error) {
	n, err := d.w.node(ctx, "look at the disk of", name)
	if err != nil {
		return 0, err
	}
	return n.volume.Stored(), nil
}

// Found reads the node's event "start": its offset is the number of records.
func (d diskFaults) Found(ctx context.Context, name string) (int64, bool, error) {
	n, err := d.w.node(ctx, "look for the start of", name)
	if err != nil {
		return 0, false, err
	}
	for i := len(n.events) - 1; i >= 0; i-- {
		ev := &n.events[i]
		if ev.Incarnation != fmt.Sprint(n.incarnation) {
			break
		}
		if ev.Kind == "start" {
			return ev.Offset, true, nil
		}
	}
	return 0, false, nil
}

// fileDamager implements nemesis.FileDamager.
type fileDamager struct{ w *World }

var _ nemesis.FileDamager = fileDamager{}

// Files waits for the last writes of a killed process: they would land on what is
// damaged next.
func (f fileDamager) Files(ctx context.Context, name string) ([]nemesis.StoredFile, error) {
	n, err := f.w.node(ctx, "list the files of", name)
	if err != nil {
		return nil, err
	}
	if left := n.landedBy - f.w.now; left > 0 {
		if err := f.w.Sleep(ctx, left); err != nil {
			return nil, err
		}
	}
	return n.volume.Files()
}

func (f fileDamager) Flip(ctx context.Context, name, file string, offset int64, bit uint) error {
	n, err := f.w.node(ctx, "damage a file of", name)
	if err != nil {
		return err
	}
	return n.volume.Flip(file, offset, bit)
}

func (f fileDamager) Cut(ctx context.Context, name, file string, size int64) error {
	n, err := f.w.node(ctx, "damage a file of", name)
	if err != nil {
		return err
	}
	return n.volume.Cut(file, size)
}

func (f fileDamager) Digest(ctx context.Context, name, file string, upTo int64) (string, error) {
	n, err := f.w.node(ctx, "digest a file of", name)
	if err != nil {
		return "", err
	}
	return n.volume.FileDigest(file, upTo)
}

func (f fileDamager) Copy(ctx context.Context, name string) error {
	n, err := f.w.node(ctx, "copy the disk of", name)
	if err != nil {
		return err
	}
	return n.volume.Copy()
}

func (f fileDamager) PutBack(ctx context.Context, name string) error {
	n, err := f.w.node(ctx, "put back the disk of", name)
	if err != nil {
		return err
	}
	if n.state != down {
		return fmt.Errorf("put back the disk of %s: its process runs: kill it first", name)
	}
	n.dropLanding()
	return n.volume.PutBack()
}

func (f fileDamager) DataDigest(ctx context.Context, name string) (string, error) {
	n, err := f.w.node(ctx, "digest the disk of", name)
	if err != nil {
		return "", err
	}
	return n.volume.DataDigest(), nil
}

// newNodes implements nemesis.NodeReplacer.
type newNodes struct{ w *World }

var _ nemesis.NodeReplacer = newNodes{}

func (r newNodes) Replace(ctx context.Context, name, identity string) error {
	n, err := r.w.node(ctx, "put a new node in the place of", name)
	if err != nil {
		return err
	}
	if n.state != down {
		return fmt.Errorf("put a new node in the place of %s: its process runs: kill it first", name)
	}
	n.dropLanding()
	return n.volume.Replace(identity)
}

// clocks implements nemesis.Clocks.
type clocks struct{ w *World }

var _ nemesis.Clocks = clocks{}

func (c clocks) Offset(ctx context.Context, name string) (time.Duration, error) {
	n, err := c.w.node(ctx, "read the clock of", name)
	if err != nil {
		return 0, err
	}
	return n.wall().Sub(c.w.opts.Wall.Add(c.w.now)), nil
}

func (c clocks) Jump(ctx context.Context, name string, by time.Duration) error {
	n, err := c.w.node(ctx, "set the clock of", name)
	if err != nil {
		return err
	}
	return c.w.SetClock(ctx, name, by, n.clockRate)
}

func (c clocks) Drift(ctx context.Context, name string, rate float64) error {
	return c.w.SetClock(ctx, name, 0, rate)
}

func (c clocks) Strobe(ctx context.Context, name string, by, period time.Duration) error {
	n, err := c.w.node(ctx, "set the clock of", name)
	if err != nil {
		return err
	}
	if period <= 0 {
		return fmt.Errorf("set the clock of %s: a period of %v must be above zero", name, period)
	}
	n.strobe = strobe{by: by, period: period, since: c.w.now}
	return nil
}

func (c clocks) Restore(ctx context.Context, name string) error {
	offset, err := c.Offset(ctx, name)
	if err != nil {
		return err
	}
	return c.w.SetClock(ctx, name, -offset, 1)
}

// shape is one rule of shaping in force.
type shape struct {
	nemesis.Shaping
	hit  uint64        // packets of the system that it did something to
	busy time.Duration // until when the packets before fill the rate
}

// packetSize is the size of a packet of the system, in bytes: messages are typed
// values that have none, so each counts as a full packet.
const packetSize = 1500

// backlog is how long a packet waits at most where the rate is limited; what would
// wait longer is lost.
const backlog = 500 * time.Millisecond

// fate is what shapes do to one packet.
type fate struct {
	late    time.Duration
	lost    bool
	damaged bool
	twice   bool
	ahead   bool // not delayed, where others are
}

// pass draws what the direction's shapes do to one packet of so many bytes that is
// sent at a moment. Where own is set, the packet is the system's, and counted.
func (d *direction) pass(r *rand.Rand, own bool, at time.Duration, size int) fate {
	var f fate
	for _, s := range d.shapes {
		spared := s.Reorder > 0 && r.Float64() < s.Reorder
		hit := spared || s.Delay > 0 && s.Reorder == 0
		if spared {
			f.ahead = true
		} else {
			f.late += s.Delay
		}
		if s.Jitter > 0 && !spared {
			f.late += time.Duration(r.Int64N(int64(s.Jitter) + 1))
			hit = hit || s.Reorder == 0
		}
		if s.Loss > 0 && r.Float64() < s.Loss {
			f.lost, hit = true, true
		}
		if s.Duplicate > 0 && r.Float64() < s.Duplicate {
			f.twice, hit = true, true
		}
		if s.Corrupt > 0 && r.Float64() < s.Corrupt {
			f.damaged, hit = true, true
		}
		if s.Rate > 0 {
			begin := max(s.busy, at)
			hit = hit || begin > at
			if begin-at > backlog {
				f.lost = true
			} else {
				s.busy = begin + time.Duration(size)*time.Second/time.Duration(s.Rate)
				f.late += s.busy - at
			}
		}
		if hit && own {
			s.hit++
		}
	}
	return f
}

// travel draws the time of one packet that is sent after a while and not repeated;
// lost: it never arrives. A damaged one is lost: its checksum is wrong. Of two
// copies the stream drops one, and what overtakes others waits for them.
func (h *half) travel(after time.Duration) (d time.Duration, lost bool) {
	w := h.c.w
	dir := w.dir(h.from().idx, h.to().idx)
	f := dir.pass(dir.rand, true, w.now+after, packetSize)
	return h.latency() + f.late, f.lost || f.damaged
}

// travelRepeated draws the time until a packet arrives that is repeated when it is
// lost; ok is false where the sender gives the connection up before that.
func (h *half) travelRepeated() (d time.Duration, ok bool) {
	step := retransmitMin
	for d < h.c.w.opts.UserTimeout {
		late, lost := h.travel(d)
		if !lost {
			return d + late, true
		}
		d += step
		step = min(2*step, retransmitMax)
	}
	return 0, false
}

// shaper implements nemesis.Shaper.
type shaper struct{ w *World }

var _ nemesis.Shaper = shaper{}

func (s shaper) Shape(ctx context.Context, id string, rules []nemesis.Shaping) error {
	w := s.w
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, known := w.shapes[id]; known {
		return fmt.Errorf("shape %q: this set exists already: remove it first", id)
	}
	if len(rules) == 0 {
		return fmt.Errorf("shape %q: no rules given", id)
	}
	for _, r := range rules {
		_, from := w.index[r.From]
		_, to := w.index[r.To]
		switch {
		case !from || !to || r.From == r.To:
			return fmt.Errorf("shape %q: from %q to %q: name two of %v and %q", id, r.From, r.To, w.names, nemesis.Clients)
		case r.Delay < 0 || r.Jitter < 0 || r.Rate < 0:
			return fmt.Errorf("shape %q: delay %v, jitter %v or rate %d is out of range", id, r.Delay, r.Jitter, r.Rate)
		}
		for _, share := range []float64{r.Loss, r.Duplicate, r.Reorder, r.Corrupt} {
			if !(share >= 0 && share <= 1) {
				return fmt.Errorf("shape %q: a share of %v is out of range", id, share)
			}
		}
	}
	for _, r := range rules {
		sh := &shape{Shaping: r}
		d := w.dir(w.index[r.From], w.index[r.To])
		d.shapes = append(d.shapes, sh)
		w.shapes[id] = append(w.shapes[id], sh)
	}
	return nil
}

func (s shaper) Unshape(ctx context.Context, id string) error {
	w := s.w
	if err := ctx.Err(); err != nil {
		return err
	}
	shapes, known := w.shapes[id]
	if !known {
		return fmt.Errorf("unshape %q: no such set", id)
	}
	delete(w.shapes, id)
	for _, sh := range shapes {
		d := w.dir(w.index[sh.From], w.index[sh.To])
		d.shapes = slices.DeleteFunc(d.shapes, func(o *shape) bool { return o == sh })
	}
	return nil
}

func (s shaper) Shaped(ctx context.Context, id string) (map[nemesis.Pair]uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	shapes, known := s.w.shapes[id]
	if !known {
		return nil, fmt.Errorf("count of %q: no such set", id)
	}
	counts := map[nemesis.Pair]uint64{}
	for _, sh := range shapes {
		counts[nemesis.Pair{From: sh.From, To: sh.To}] += sh.hit
	}
	return counts, nil
}

// Echo sends its datagrams at one moment; the caller waits for the slowest.
func (s shaper) Echo(ctx context.Context, from, to string, v nemesis.Volley) (nemesis.Echo, error) {
	w := s.w
	a, okA := w.index[from]
	b, okB := w.index[to]
	if !okA || !okB || a == b || v.Count < 1 || v.Size < 0 {
		return nemesis.Echo{}, fmt.Errorf("echo of %d datagrams of %d bytes from %q to %q: name two of %v and %q, and at least one datagram", v.Count, v.Size, from, to, w.names, nemesis.Clients)
	}
	if v.Size == 0 {
		v.Size = 64
	}
	if w.probes == nil {
		w.probes = stream(w.opts.Seed, "echo")
	}
	there := w.carry(a, b, v.Size, make([]time.Duration, v.Count))
	back := w.carry(b, a, v.Size, there.arrivals)
	e := nemesis.Echo{Sent: v.Count, Arrived: len(there.arrivals), Returned: len(back.arrivals), There: there.Way, Back: back.Way}
	if e.Returned == 0 {
		return e, w.Sleep(ctx, w.opts.DialTimeout)
	}
	e.Median = back.arrivals[e.Returned/2]
	return e, w.Sleep(ctx, back.arrivals[e.Returned-1])
}

// carried is what became of datagrams in one direction.
type carried struct {
	nemesis.Way
	arrivals []time.Duration // sorted
}

// carry sends datagrams from one endpoint to another, at these moments from now on.
func (w *World) carry(from, to, size int, moments []time.Duration) carried {
	d := w.dir(from, to)
	var c carried
	last := map[bool]time.Duration{} // arrival of those that are ahead, and of the others: each keep their order
	for _, m := range moments {
		f := d.pass(w.probes, false, w.now+m, size)
		at := m + w.opts.Latency.draw(w.probes) + f.late
		at = max(at, last[f.ahead])
		last[f.ahead] = at
		switch {
		case f.lost || d.anyPort > 0:
			continue
		case f.damaged:
			c.Damaged++
			continue
		}
		if f.twice {
			c.Twice++
		}
		c.arrivals = append(c.arrivals, at)
	}
	n := len(c.arrivals)
	if n == 0 {
		return c
	}
	first := c.arrivals[n-1] // of those that were sent later
	for _, at := range slices.Backward(c.arrivals) {
		if at > first {
			c.Overtaken++
		}
		first = min(first, at)
	}
	slices.Sort(c.arrivals)
	c.Spread = c.arrivals[n-1] - c.arrivals[0]
	return c
}

// rejection is one rule that resets or silences the connections of a node.
type rejection struct {
	node   *node
	silent bool
	hit    uint64 // connections and dials that it reset, packets that it silenced
}

// of reports whether a rule is about a direction.
func (r *rejection) of(a, b int) bool { return r.node.idx == a || r.node.idx == b }

// rejects reports whether a dial between two endpoints is answered with a reset,
// and counts it.
func (w *World) rejects(a, b int) bool {
	hit := false
	for _, r := range w.rejections {
		if !r.silent && r.of(a, b) {
			r.hit++
			hit = true
		}
	}
	return hit
}

// silences reports whether a packet that begins no connection is dropped between
// two endpoints, and counts it where that is asked for.
func (w *World) silences(a, b int, counted bool) bool {
	hit := false
	for _, r := range w.rejections {
		if r.silent && r.of(a, b) {
			hit = true
			if counted {
				r.hit++
			}
		}
	}
	return hit
}

// resetter implements nemesis.Resetter.
type resetter struct{ w *World }

var _ nemesis.Resetter = resetter{}

func (r resetter) add(ctx context.Context, id, name string, silent bool) (*rejection, error) {
	n, err := r.w.node(ctx, "spoil the connections of", name)
	if err != nil {
		return nil, err
	}
	if _, known := r.w.rejectionOf[id]; known {
		return nil, fmt.Errorf("spoil the connections of %s: rule %q exists already: remove it first", name, id)
	}
	rej := &rejection{node: n, silent: silent}
	r.w.rejectionOf[id] = rej
	r.w.rejections = append(r.w.rejections, rej)
	return rej, nil
}

// Reject resets all connections that the node has an end of, at once.
func (r resetter) Reject(ctx context.Context, id, name string) error {
	rej, err := r.add(ctx, id, name, false)
	if err != nil {
		return err
	}
	for _, c := range slices.Clone(rej.node.conns) {
		rej.hit++
		c.close(0, "reset")
		c.close(1, "reset")
	}
	return nil
}

func (r resetter) Silence(ctx context.Context, id, name string) error {
	_, err := r.add(ctx, id, name, true)
	return err
}

func (r resetter) Accept(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	rej, known := r.w.rejectionOf[id]
	if !known {
		return fmt.Errorf("accept %q: no such rule", id)
	}
	delete(r.w.rejectionOf, id)
	r.w.rejections = slices.DeleteFunc(r.w.rejections, func(o *rejection) bool { return o == rej })
	if rej.silent {
		r.w.pathsChanged()
	}
	return nil
}

func (r resetter) Resets(ctx context.Context, id string) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	rej, known := r.w.rejectionOf[id]
	if !known {
		return 0, fmt.Errorf("count of %q: no such rule", id)
	}
	return rej.hit, nil
}

func (r resetter) Dial(ctx context.Context, from, name string) (string, error) {
	w := r.w
	n, err := w.node(ctx, "dial", name)
	if err != nil {
		return "", err
	}
	a, ok := w.index[from]
	if !ok || a == n.idx {
		return "", errors.New("dial: unknown endpoint " + from)
	}
	rejected := slices.ContainsFunc(w.rejections, func(o *rejection) bool { return !o.silent && o.of(a, n.idx) })
	switch {
	case w.dir(a, n.idx).anyPort > 0 || w.dir(n.idx, a).anyPort > 0 || n.silent:
		return nemesis.DialTimeout, w.Sleep(ctx, w.opts.DialTimeout)
	case rejected:
		return nemesis.DialReset, nil
	case w.silences(a, n.idx, false):
		return nemesis.DialSilent, w.Sleep(ctx, w.opts.DialTimeout)
	case n.state != running:
		return nemesis.DialReset, nil
	}
	return nemesis.DialAccepted, nil
}
