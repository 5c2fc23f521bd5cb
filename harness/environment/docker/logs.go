package docker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// eventLine is how a node writes an event to its standard output: one JSON
// object on one line with the member "event".
type eventLine struct {
	Event       string   `json:"event"`       // the kind
	Incarnation text     `json:"incarnation"` // string or number
	Seq         int64    `json:"seq"`         // from 1 within the incarnation
	Wall        int64    `json:"wall"`        // nanoseconds since 1970
	Machine     int64    `json:"machine"`     // the same by the machine's clock, where the node's may be wrong
	Key         string   `json:"key"`
	Epoch       *int32   `json:"epoch"` // -1 if missing
	Leader      string   `json:"leader"`
	ISR         []string `json:"isr"`
	From        int64    `json:"from"`
	To          int64    `json:"to"`
	Offset      int64    `json:"offset"`
	Detail      string   `json:"detail"`
}

// text is a JSON string, or a number as it was written.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err == nil {
		*t = text(s)
		return nil
	}
	var n json.Number
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	*t = text(n)
	return nil
}

// parseEvent reads one line of a node's output; ok is false for a line of log.
func parseEvent(node string, line []byte) (ev history.NodeEvent, wall int64, ok bool) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] != '{' {
		return ev, 0, false
	}
	var l eventLine
	if err := json.Unmarshal(line, &l); err != nil || l.Event == "" {
		return ev, 0, false
	}
	ev = history.NodeEvent{
		Node: node, Incarnation: string(l.Incarnation), Seq: l.Seq, Kind: l.Event,
		Key: l.Key, Epoch: -1, Leader: l.Leader, ISR: l.ISR,
		From: l.From, To: l.To, Offset: l.Offset, Detail: l.Detail,
	}
	if l.Epoch != nil {
		ev.Epoch = *l.Epoch
	}
	if l.Machine > 0 {
		l.Wall = l.Machine
	}
	return ev, l.Wall, true
}

// arrivalUncertainty stands for events without a time of their own, which are
// stamped as they arrive.
const arrivalUncertainty = time.Second

// The names of a node's files, in the spool and in what Collect writes.
const (
	stdoutFile  = "stdout.log"
	stderrFile  = "stderr.log"
	eventsFile  = "events.jsonl"
	sidecarFile = "sidecar.log"
)

// nodeLog takes a node's output, over all incarnations. Events go on, log is
// stored up to a limit.
type nodeLog struct {
	node  string
	dir   string
	clock *hostClock
	now   func() time.Duration
	emit  func(history.NodeEvent)

	mu     sync.Mutex
	files  map[string]*spool
	events *json.Encoder
	err    error // the first one in storing
}

// spool is one stored stream.
type spool struct {
	f     *os.File
	limit int64 // 0 = none
	size  int64
	full  bool
}

func (s *spool) Write(p []byte) (int, error) {
	if s.full {
		return len(p), nil
	}
	if s.limit > 0 && s.size+int64(len(p)) > s.limit {
		s.full = true
		_, err := fmt.Fprintf(s.f, "\n[the rest is dropped: the limit of %d bytes is reached]\n", s.limit)
		return len(p), err
	}
	n, err := s.f.Write(p)
	s.size += int64(n)
	return n, err
}

func newNodeLog(node, dir string, limit int64, clock *hostClock, now func() time.Duration, emit func(history.NodeEvent)) (*nodeLog, error) {
	l := &nodeLog{node: node, dir: dir, clock: clock, now: now, emit: emit, files: map[string]*spool{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the spool of node %s: %w", node, err)
	}
	for _, name := range []string{stdoutFile, stderrFile, eventsFile, sidecarFile} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("creating the spool of node %s: %w", node, err), l.close())
		}
		l.files[name] = &spool{f: f, limit: limit}
	}
	l.files[eventsFile].limit = 0
	l.events = json.NewEncoder(l.files[eventsFile])
	return l, nil
}

func (l *nodeLog) store(name string, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.files[name].Write(data); err != nil && l.err == nil {
		l.err = fmt.Errorf("storing %s of node %s: %w", name, l.node, err)
	}
}

// stdout takes one line of the node's standard output, with its line break.
func (l *nodeLog) stdout(line []byte) {
	ev, wall, ok := parseEvent(l.node, line)
	if !ok {
		l.store(stdoutFile, line)
		return
	}
	ev.At, ev.Uncertainty = int64(l.now()), int64(arrivalUncertainty)
	if wall > 0 {
		if at, uncertainty, ok := l.clock.at(wall); ok {
			ev.At, ev.Uncertainty = at, uncertainty
		}
	}
	l.mu.Lock()
	if err := l.events.Encode(ev); err != nil && l.err == nil {
		l.err = fmt.Errorf("storing events of node %s: %w", l.node, err)
	}
	l.mu.Unlock()
	l.emit(ev)
}

// stream returns a writer that appends to one of the stored files.
func (l *nodeLog) stream(name string) io.Writer {
	return writerFunc(func(p []byte) { l.store(name, p) })
}

// copyTo copies the stored files to dir.
func (l *nodeLog) copyTo(dir string) error {
	l.mu.Lock()
	err := l.err
	l.mu.Unlock()
	for name := range l.files {
		err = errors.Join(err, copyFile(filepath.Join(l.dir, name), filepath.Join(dir, name)))
	}
	return err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (l *nodeLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	for _, s := range l.files {
		err = errors.Join(err, s.f.Close())
	}
	return err
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// maxLine is where a line without end is broken.
const maxLine = 1 << 20

// lines calls emit for each line written to it, with its line break; flush
// emits what was cut short.
type lines struct {
	buf  []byte
	emit func([]byte)
}

func (l *lines) Write(p []byte) (int, error) {
	l.buf = append(l.buf, p...)
	rest := l.buf
	for {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		l.emit(rest[:i+1])
		rest = rest[i+1:]
	}
	if len(rest) >= maxLine {
		l.emit(append(rest, '\n'))
		rest = nil
	}
	l.buf = append(l.buf[:0], rest...)
	return len(p), nil
}

func (l *lines) flush() {
	if len(l.buf) > 0 {
		l.emit(append(l.buf, '\n'))
		l.buf = l.buf[:0]
	}
}
