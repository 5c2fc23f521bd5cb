package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/nemesis"
)

// memDisk is a Volume that knows what is synced: a log of strings, canaries and
// one file that can be damaged.
type memDisk struct {
	log      []string
	synced   int
	canaries map[string]bool // synced?
	wiped    int
	file     []byte
	copied   []byte
	identity string
	err      error
}

func newMemDisk(string) Volume { return &memDisk{canaries: map[string]bool{}} }

func (d *memDisk) PowerLoss(r *rand.Rand) {
	d.log = d.log[:d.synced+r.IntN(len(d.log)-d.synced+1)]
	d.synced = len(d.log)
	for name, synced := range d.canaries {
		if !synced {
			delete(d.canaries, name)
		}
	}
}

func (d *memDisk) Wipe() {
	d.log, d.synced, d.canaries = nil, 0, map[string]bool{}
	d.wiped++
}
func (d *memDisk) Digest() string { return strings.Join(d.log, ",") }
func (d *memDisk) WriteCanary(name string, sync bool) error {
	d.canaries[name] = sync
	return nil
}

func (d *memDisk) HasCanary(name string) (bool, error) {
	_, ok := d.canaries[name]
	return ok, nil
}

func (d *memDisk) spoil(on bool, err error) {
	d.err = nil
	if on {
		d.err = err
	}
}

func (d *memDisk) Fill(on bool)  { d.spoil(on, syscall.ENOSPC) }
func (d *memDisk) Break(on bool) { d.spoil(on, syscall.EIO) }
func (d *memDisk) Probe() error  { return d.err }
func (d *memDisk) Stored() int64 { return int64(len(d.log)) }
func (d *memDisk) Files() ([]nemesis.StoredFile, error) {
	return []nemesis.StoredFile{{Name: "f", Size: int64(len(d.file))}}, nil
}

func (d *memDisk) FileDigest(_ string, upTo int64) (string, error) {
	return fmt.Sprintf("%x", d.file[:min(upTo, int64(len(d.file)))]), nil
}

func (d *memDisk) Flip(_ string, offset int64, bit uint) error {
	d.file[offset] ^= 1 << bit
	return nil
}

func (d *memDisk) Copy() error {
	d.copied = slices.Clone(d.file)
	return nil
}

func (d *memDisk) PutBack() error {
	d.file = slices.Clone(d.copied)
	return nil
}

func (d *memDisk) DataDigest() string { return fmt.Sprintf("%x", d.file) }

func (d *memDisk) Replace(identity string) error {
	d.Wipe()
	d.identity = identity
	return nil
}

func (d *memDisk) Cut(_ string, size int64) error {
	d.file = d.file[:size]
	return nil
}

// seen is one event that a probe was told.
type seen struct {
	at time.Duration
	ev Event
}

// probe is a process that writes down what it is told and does what its test says.
type probe struct {
	Host
	seen []seen
	on   func(p *probe, ev Event)
}

func (p *probe) Handle(ev Event) {
	p.seen = append(p.seen, seen{p.Now(), ev})
	if p.on != nil {
		p.on(p, ev)
	}
}

// texts renders the messages received from a node.
func (p *probe) texts(from string) []string {
	var out []string
	for _, s := range p.seen {
		if m, ok := s.ev.(Message); ok && m.From == from {
			out = append(out, fmt.Sprint(m.Msg))
		}
	}
	return out
}

func countOf[E Event](p *probe, match func(E) bool) int {
	n := 0
	for _, s := range p.seen {
		if e, ok := s.ev.(E); ok && (match == nil || match(e)) {
			n++
		}
	}
	return n
}

func ups(p *probe, inbound bool) int {
	return countOf(p, func(e LinkUp) bool { return e.Inbound == inbound })
}

func downs(p *probe, inbound bool) []string {
	var out []string
	for _, s := range p.seen {
		if e, ok := s.ev.(LinkDown); ok && e.Inbound == inbound {
			out = append(out, e.Reason)
		}
	}
	return out
}

// rig is a World of probes.
type rig struct {
	*World
	t      *testing.T
	probes map[string][]*probe // by incarnation
}

var ctx = context.Background()

func newRig(t *testing.T, nodes int, behave func(p *probe, ev Event), change func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, probes: map[string][]*probe{}}
	var names []string
	for i := range nodes {
		names = append(names, fmt.Sprintf("n%d", i+1))
	}
	o := DefaultOptions(names, 7)
	o.Volume = newMemDisk
	o.Factory = func(h Host) Process {
		p := &probe{Host: h, on: behave}
		r.probes[h.Node()] = append(r.probes[h.Node()], p)
		return p
	}
	if change != nil {
		change(&o)
	}
	w, err := New(o)
	require.NoError(t, err)
	r.World = w
	return r
}

// at is the newest incarnation of a node.
func (r *rig) at(node string) *probe { return r.probes[node][len(r.probes[node])-1] }

func (r *rig) run(main func()) {
	r.t.Helper()
	require.NoError(r.t, r.Run(ctx, func() {
		require.NoError(r.t, r.Up(ctx))
		main()
	}))
	require.Empty(r.t, r.Crashes())
}

func (r *rig) sleep(d time.Duration) { require.NoError(r.t, r.Sleep(ctx, d)) }

func (r *rig) block(id string, cuts ...string) {
	var cs []nemesis.Cut
	for _, c := range cuts {
		from, to, _ := strings.Cut(c, ">")
		cs = append(cs, nemesis.Cut{From: from, To: to})
	}
	require.NoError(r.t, r.Network().Block(ctx, id, cs))
}

func (r *rig) unblock(id string) { require.NoError(r.t, r.Network().Unblock(ctx, id)) }

// dialN1 makes n1 keep a stream to n2.
func dialN1(p *probe, ev Event) {
	if _, ok := ev.(Started); ok && p.Node() == "n1" {
		p.Connect("n2", PeerChannel)
	}
}

const ms = time.Millisecond

func (d *memDisk) Locks() (map[string]string, error)    { return nil, nil }
func (d *memDisk) RemoveLock(name string, _ bool) error { return fmt.Errorf("no lock file %s", name) }
