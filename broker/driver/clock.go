package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"sync/atomic"
	"time"
)

// clockInterval is the pause between two looks at the clock's file.
const clockInterval = 10 * time.Millisecond

// skew is how a wall clock goes wrong: the content of Config.Clock, one JSON
// object. Each field may be missing.
type skew struct {
	Since  int64   `json:"since"`  // when it began, in nanoseconds since 1970, by the machine's clock
	Offset int64   `json:"offset"` // nanoseconds that it was wrong by then
	Rate   float64 `json:"rate"`   // seconds per second from then on; 0 = 1
	// By is what it is wrong by in addition, in nanoseconds, in every other period
	// of Period nanoseconds, the first one included; 0 = never.
	By     int64 `json:"by"`
	Period int64 `json:"period"`
}

func (s *skew) valid() error {
	if math.IsNaN(s.Rate) || s.Rate < 0 || s.Rate > 1000 || s.Period < 0 {
		return fmt.Errorf("a rate of %g and a period of %d ns: a rate from 0 to 1000 and a period from 0 are wanted", s.Rate, s.Period)
	}
	return nil
}

// at returns what the clock shows at a moment of the machine's.
func (s *skew) at(now int64) int64 {
	since := now - s.Since
	wall := now + s.Offset
	if s.Rate != 0 && s.Rate != 1 {
		wall += int64(float64(since) * (s.Rate - 1))
	}
	if s.Period > 0 && since/s.Period%2 == 0 {
		wall += s.By
	}
	return wall
}

// clock is the node's wall clock: the machine's, or what a file makes of it.
// Monotonic time does not go by it.
type clock struct {
	path string // "": the machine's
	log  *slog.Logger
	skew atomic.Pointer[skew] // nil: none
	was  []byte               // the file when it was last looked at
	bad  string               // why it could not be used then, "" if it could
}

// wall returns what the clock shows at a moment, in nanoseconds since 1970.
func (c *clock) wall(now time.Time) int64 {
	if s := c.skew.Load(); s != nil {
		return s.at(now.UnixNano())
	}
	return now.UnixNano()
}

// look reads the file. Without one the clock is right; one that cannot be read or
// understood changes nothing.
func (c *clock) look() {
	b, err := os.ReadFile(c.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.was, c.bad = nil, ""
		if c.skew.Swap(nil) != nil {
			c.log.Info("the wall clock is the machine's again")
		}
		return
	case err == nil && bytes.Equal(b, c.was):
		return
	}
	var s skew
	if err == nil {
		c.was = b
		err = json.Unmarshal(b, &s)
	}
	if err == nil {
		err = s.valid()
	}
	if err != nil {
		if c.bad != err.Error() {
			c.bad = err.Error()
			c.log.Warn("the wall clock stays as it is: its file cannot be used", "file", c.path, "error", err)
		}
		return
	}
	c.bad = ""
	c.skew.Store(&s)
	c.log.Info("the wall clock goes by its file", "file", c.path, "offset", time.Duration(s.Offset), "rate", s.Rate, "by", time.Duration(s.By), "period", time.Duration(s.Period))
}

// follow looks at the file until ctx ends.
func (c *clock) follow(ctx context.Context) {
	for t := time.NewTicker(clockInterval); ; {
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
			c.look()
		}
	}
}
