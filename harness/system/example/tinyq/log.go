package tinyq

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// flushEvery is how long Buffered keeps in memory what it acknowledged.
const flushEvery = 200 * time.Millisecond

// entry is one line of the log: a checksum of the rest, a blank, and this as JSON.
type entry struct {
	Put    uint64 `json:"put,omitempty"`    // a message of this id came, …
	Queue  string `json:"queue,omitempty"`  // … into this queue, …
	Body   []byte `json:"body,omitempty"`   // … with this content
	Accept uint64 `json:"accept,omitempty"` // the message of this id was consumed
}

// log is the file of everything that happened. It only grows.
type log struct {
	file       *os.File
	durability Durability

	mu      sync.Mutex
	w       *bufio.Writer
	written int64 // entries handed to w

	syncing sync.Mutex
	synced  int64 // entries on disk
}

// openLog opens the log in dir and hands what it holds to replay. A crash may have
// torn its last line: from the first line that is not whole on, it is cut off.
func openLog(dir string, durability Durability, replay func(entry)) (*log, error) {
	path := filepath.Join(dir, LogFile)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	good := int64(0)
	for r := bufio.NewReader(file); ; {
		line, err := r.ReadBytes('\n')
		e, whole := decode(line)
		if errors.Is(err, io.EOF) || err == nil && !whole {
			break
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("reading %s: %w", path, err), file.Close())
		}
		replay(e)
		good += int64(len(line))
	}
	_, seek := file.Seek(good, io.SeekStart)
	if err := errors.Join(file.Truncate(good), seek, file.Sync(), syncDir(dir)); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), file.Close())
	}
	return &log{file: file, durability: durability, w: bufio.NewWriterSize(file, 1<<20)}, nil
}

// syncDir makes sure that a file that was made in dir is there after a loss of power.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func encode(e entry) ([]byte, error) {
	text, err := json.Marshal(e)
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE(text), text), err
}

func decode(line []byte) (e entry, whole bool) {
	sum, text, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	if !ok || len(line) == 0 || line[len(line)-1] != '\n' || string(sum) != fmt.Sprintf("%08x", crc32.ChecksumIEEE(text)) {
		return e, false
	}
	return e, json.Unmarshal(text, &e) == nil
}

// append adds an entry and returns once it is as durable as was asked for. Entries
// that come at the same time are synced together.
func (l *log) append(e entry) error {
	line, err := encode(e)
	if err != nil {
		return err
	}
	l.mu.Lock()
	_, err = l.w.Write(line)
	if err == nil && l.durability != Buffered {
		err = l.w.Flush()
	}
	l.written++
	n := l.written
	l.mu.Unlock()
	if err != nil || l.durability != Synced {
		return err
	}
	l.syncing.Lock()
	defer l.syncing.Unlock()
	if l.synced >= n {
		return nil
	}
	l.mu.Lock()
	upTo := l.written
	l.mu.Unlock()
	if err := l.file.Sync(); err != nil {
		return err
	}
	l.synced = upTo
	return nil
}

func (l *log) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Flush()
}
