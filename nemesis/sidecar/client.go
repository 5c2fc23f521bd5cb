package sidecar

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// ErrGone is returned (wrapped) once a sidecar's streams have ended.
var ErrGone = errors.New("the sidecar is gone")

// Client commands one sidecar over its standard streams. Its methods may be
// called from several goroutines.
type Client struct {
	in io.WriteCloser

	writing sync.Mutex // one frame at a time

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan Response
	err     error
	done    chan struct{}
}

// NewClient takes the sidecar's standard input and output. out ends when the
// sidecar exits; Close closes in.
func NewClient(in io.WriteCloser, out io.Reader) *Client {
	c := &Client{in: in, waiting: map[uint64]chan Response{}, done: make(chan struct{})}
	go c.read(bufio.NewReader(out))
	return c
}

// Close ends the sidecar's input, whereupon it takes its rules away and exits.
func (c *Client) Close() error { return c.in.Close() }

// Done is closed when the sidecar's output has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

func (c *Client) read(out io.Reader) {
	defer close(c.done)
	for {
		var resp Response
		err := ReadFrame(out, &resp)
		c.mu.Lock()
		if err != nil {
			c.err = fmt.Errorf("%w: %w", ErrGone, err)
			for id, ch := range c.waiting {
				close(ch)
				delete(c.waiting, id)
			}
			c.mu.Unlock()
			return
		}
		if ch, ok := c.waiting[resp.ID]; ok {
			ch <- resp // buffered
			delete(c.waiting, resp.ID)
		}
		c.mu.Unlock()
	}
}

func (c *Client) do(ctx context.Context, limit time.Duration, req Request) (Response, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	deadline, _ := ctx.Deadline()
	req.Timeout = max(time.Until(deadline), 1) // 0 would be the default
	ch := make(chan Response, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return Response{}, fmt.Errorf("%s: %w", req.name(), c.err)
	}
	c.next++
	req.ID = c.next
	c.waiting[req.ID] = ch
	c.mu.Unlock()

	c.writing.Lock()
	err := WriteFrame(c.in, req)
	c.writing.Unlock()
	if err != nil {
		c.forget(req.ID)
		return Response{}, fmt.Errorf("%s: %w: %w", req.name(), ErrGone, err)
	}
	select {
	case <-ctx.Done():
		c.forget(req.ID)
		return Response{}, fmt.Errorf("%s: %w", req.name(), ctx.Err())
	case resp, ok := <-ch:
		if !ok {
			return Response{}, fmt.Errorf("%s: %w", req.name(), ErrGone)
		}
		if resp.Error != "" {
			return Response{}, fmt.Errorf("%s: %s", req.name(), resp.Error)
		}
		return resp, nil
	}
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// Configure tells the sidecar who it is and starts its nonces.
func (c *Client) Configure(ctx context.Context, cfg Configure) error {
	_, err := c.do(ctx, DefaultTimeout, Request{Op: opConfigure, Configure: &cfg})
	return err
}

// Apply adds a rule set, all of it or nothing. The same set again does nothing;
// another one under a known id is an error.
func (c *Client) Apply(ctx context.Context, set RuleSet) error {
	_, err := c.do(ctx, DefaultTimeout, Request{Op: opApply, Apply: &set})
	return err
}

// Remove takes a rule set away. An unknown id does nothing.
func (c *Client) Remove(ctx context.Context, id string) error {
	_, err := c.do(ctx, DefaultTimeout, Request{Op: opRemove, Remove: id})
	return err
}

// Try adds a rule set and removes it again, to see whether the kernel can do what
// it asks for. The error names what it lacks.
func (c *Client) Try(ctx context.Context, set RuleSet) error {
	_, err := c.do(ctx, DefaultTimeout, Request{Op: opTry, Try: &set})
	return err
}

// Volley sends datagrams from here to another endpoint, and returns what came back.
func (c *Client) Volley(ctx context.Context, v Volley) (Echoes, error) {
	return c.echo(ctx, Request{Op: opEcho, Echo: &v})
}

// Arrived returns what arrived here of a volley that another endpoint sent.
func (c *Client) Arrived(ctx context.Context, volley uint64) (Echoes, error) {
	return c.echo(ctx, Request{Op: opArrived, Arrived: volley})
}

func (c *Client) echo(ctx context.Context, req Request) (Echoes, error) {
	resp, err := c.do(ctx, DefaultTimeout, req)
	if err != nil {
		return Echoes{}, err
	}
	if resp.Echo == nil {
		return Echoes{}, fmt.Errorf("%s: an answer without content", req.Op)
	}
	return *resp.Echo, nil
}

// Dial opens a connection from here to another node's sidecar, as Dial does.
func (c *Client) Dial(ctx context.Context, node string) (string, error) {
	resp, err := c.do(ctx, DefaultTimeout, Request{Op: opDial, Dial: node})
	return resp.Dial, err
}

// SetClock sets the node's wall clock.
func (c *Client) SetClock(ctx context.Context, req ClockRequest) error {
	_, err := c.do(ctx, DefaultTimeout, Request{Op: opClock, Clock: &req})
	return err
}

// ReadClock asks the node for its wall clock, on a port of its own.
func (c *Client) ReadClock(ctx context.Context, port uint16) (ClockReading, error) {
	resp, err := c.do(ctx, DefaultTimeout, Request{Op: opReadClock, ReadClock: port})
	if err != nil {
		return ClockReading{}, err
	}
	if resp.Clock == nil {
		return ClockReading{}, errors.New("read-clock: an answer without content")
	}
	return *resp.Clock, nil
}

// Observe returns the sidecar's counters and its boot id.
func (c *Client) Observe(ctx context.Context) (Observation, string, error) {
	resp, err := c.do(ctx, DefaultTimeout, Request{Op: opObserve})
	if err != nil {
		return Observation{}, "", err
	}
	if resp.State == nil {
		return Observation{}, "", errors.New("observe: an answer without state")
	}
	return *resp.State, resp.Boot, nil
}

// Time returns the wall clock of the sidecar's host.
func (c *Client) Time(ctx context.Context) (time.Time, error) {
	resp, err := c.do(ctx, DefaultTimeout, Request{Op: opTime})
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(0, resp.Wall), nil
}

// Stay makes the sidecar outlive its input: when that ends it still takes its
// rules away, but keeps the namespace and the disk until it is told to terminate.
func (c *Client) Stay(ctx context.Context) error {
	_, err := c.do(ctx, DefaultTimeout, Request{Op: opStay})
	return err
}
