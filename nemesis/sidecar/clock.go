package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ClockDir is where a sidecar finds the volume that holds the clock of its node.
const ClockDir = "/clock"

// ClockFile is the file in that volume: while it is there, the node's wall clock
// goes wrong as it says, in the form of a Skew.
const ClockFile = "clock"

// Skew is how a node's wall clock goes wrong: a function of the time of the
// machine that sidecar and node share.
type Skew struct {
	Since  int64         `json:"since"`  // when it began, in nanoseconds since 1970
	Offset time.Duration `json:"offset"` // by which it was wrong by then
	Rate   float64       `json:"rate"`   // seconds per second from then on
	// By is what it is wrong by in addition in every other Period, the first one
	// included; a Period of 0 is never.
	By     time.Duration `json:"by,omitempty"`
	Period time.Duration `json:"period,omitempty"`
}

// ClockOp is one command about the node's clock.
type ClockOp string

// The commands.
const (
	ClockJump    ClockOp = "jump"    // add By, and end a strobe
	ClockDrift   ClockOp = "drift"   // let it run at Rate from now on
	ClockStrobe  ClockOp = "strobe"  // wrong by By and right by turns, each for Period
	ClockRestore ClockOp = "restore" // make it right
)

// ClockRequest is a command about the clock; what Op does not name is ignored.
type ClockRequest struct {
	Op     ClockOp       `json:"op"`
	By     time.Duration `json:"by,omitempty"`
	Rate   float64       `json:"rate,omitempty"`
	Period time.Duration `json:"period,omitempty"`
}

// ClockReading is what a node's wall clock showed.
type ClockReading struct {
	Offset time.Duration `json:"offset"` // less the machine's
	Error  time.Duration `json:"error"`  // at most, of that offset: half the time that asking took
}

// clock sets a node's clock by a file.
type clock struct {
	dir     string
	stubbed bool
	skew    *Skew // nil: right
}

// do carries out a command.
func (c *clock) do(req ClockRequest) error {
	if _, err := os.Stat(c.dir); err != nil {
		return fmt.Errorf("this node cannot be told a time: %w", err)
	}
	now := time.Now().UnixNano()
	next := Skew{Since: now, Rate: 1}
	if s := c.skew; s != nil {
		next.Rate = s.Rate
		next.Offset = s.Offset + time.Duration((s.Rate-1)*float64(now-s.Since))
	}
	switch req.Op {
	case ClockJump:
		next.Offset += req.By
	case ClockDrift:
		if !(req.Rate >= 0 && req.Rate <= 1000) {
			return fmt.Errorf("a rate of %g: 0 to 1000 seconds per second are possible", req.Rate)
		}
		next.Rate = req.Rate
	case ClockStrobe:
		if req.Period <= 0 {
			return fmt.Errorf("a period of %v must be above zero", req.Period)
		}
		next.By, next.Period = req.By, req.Period
	case ClockRestore:
		return c.restore()
	default:
		return fmt.Errorf("unknown command %q", req.Op)
	}
	if !c.stubbed {
		if err := c.write(next); err != nil {
			return err
		}
	}
	c.skew = &next
	return nil
}

// write puts the file in its place in one step: the node may read it at any time.
func (c *clock) write(s Skew) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	file := filepath.Join(c.dir, ClockFile)
	if err := os.WriteFile(file+".new", b, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// restore makes the clock right; one that is right is left alone.
func (c *clock) restore() error {
	c.skew = nil
	return ignoreMissing(os.Remove(filepath.Join(c.dir, ClockFile)))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// readLimit bounds the reading of a clock.
const readLimit = time.Second

// readClock asks the process that listens on a port of this namespace for its
// wall clock: GET /clock over HTTP, which answers with nanoseconds since 1970.
// Loopback is no link that faults cut.
func readClock(ctx context.Context, port uint16) (ClockReading, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	before := time.Now()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return ClockReading{}, err
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return ClockReading{}, err
	}
	if _, err := io.WriteString(conn, "GET /clock HTTP/1.0\r\n\r\n"); err != nil {
		return ClockReading{}, err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 4<<10))
	if err != nil {
		return ClockReading{}, err
	}
	took := time.Since(before)
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	status, _, _ := strings.Cut(head, "\r\n")
	body = strings.TrimSpace(body)
	if !strings.Contains(status, " 200 ") {
		return ClockReading{}, fmt.Errorf("port %d answers %q: %s", port, status, body)
	}
	wall, err := strconv.ParseInt(body, 10, 64)
	if err != nil {
		return ClockReading{}, fmt.Errorf("port %d does not answer with nanoseconds since 1970: %w", port, err)
	}
	return ClockReading{Offset: time.Duration(wall-before.UnixNano()) - took/2, Error: took / 2}, nil
}
