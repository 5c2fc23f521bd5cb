package sidecar

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// told is what the node finds; false: nothing.
func (s *served) told(t *testing.T) (Skew, bool) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.clock, ClockFile))
	if os.IsNotExist(err) {
		return Skew{}, false
	}
	require.NoError(t, err)
	var skew Skew
	require.NoError(t, json.Unmarshal(b, &skew))
	return skew, true
}

func TestClockIsTold(t *testing.T) {
	s, ctx := serve(t, NoSabotage), t.Context()
	set := func(req ClockRequest) Skew {
		t.Helper()
		before := time.Now().UnixNano()
		require.NoError(t, s.SetClock(ctx, req))
		skew, ok := s.told(t)
		require.True(t, ok)
		require.GreaterOrEqual(t, skew.Since, before)
		require.LessOrEqual(t, skew.Since, time.Now().UnixNano())
		return skew
	}
	jump := set(ClockRequest{Op: ClockJump, By: time.Hour})
	require.Equal(t, Skew{Since: jump.Since, Offset: time.Hour, Rate: 1}, jump)
	drift := set(ClockRequest{Op: ClockDrift, Rate: 2})
	require.Equal(t, Skew{Since: drift.Since, Offset: time.Hour, Rate: 2}, drift, "the jump stays")
	again := set(ClockRequest{Op: ClockJump, By: -time.Hour})
	require.Equal(t, 2.0, again.Rate, "the drift stays")
	require.Equal(t, time.Duration(again.Since-drift.Since), again.Offset, "and what it summed up to")
	require.NoError(t, s.SetClock(ctx, ClockRequest{Op: ClockRestore}))
	_, wrong := s.told(t)
	require.False(t, wrong)
	require.NoError(t, s.SetClock(ctx, ClockRequest{Op: ClockRestore}), "again")

	strobe := set(ClockRequest{Op: ClockStrobe, By: time.Minute, Period: time.Second})
	require.Equal(t, Skew{Since: strobe.Since, Rate: 1, By: time.Minute, Period: time.Second}, strobe)
	for say, req := range map[string]ClockRequest{
		"a rate of -1":     {Op: ClockDrift, Rate: -1},
		"a period of 0s":   {Op: ClockStrobe, By: 1},
		"unknown command":  {Op: "stop"},
		"a rate of 1001":   {Op: ClockDrift, Rate: 1001},
		"a period of -1ns": {Op: ClockStrobe, Period: -1},
	} {
		require.ErrorContains(t, s.SetClock(ctx, req), say)
	}
	now, _ := s.told(t)
	require.Equal(t, strobe, now, "what was refused changed nothing")

	require.NoError(t, s.Close())
	require.NoError(t, <-s.result)
	_, wrong = s.told(t)
	require.False(t, wrong, "who is left alone makes the clock right")
	left, err := os.ReadDir(s.clock)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestClockSabotaged(t *testing.T) {
	s := serve(t, Stubbed)
	require.NoError(t, s.SetClock(t.Context(), ClockRequest{Op: ClockJump, By: time.Hour}))
	_, wrong := s.told(t)
	require.False(t, wrong, "stubbed")

	s = serve(t, HalfTime(50*time.Millisecond))
	require.NoError(t, s.Configure(t.Context(), config()))
	require.NoError(t, s.SetClock(t.Context(), ClockRequest{Op: ClockJump, By: time.Hour}))
	_, wrong = s.told(t)
	require.True(t, wrong)
	require.Eventually(t, func() bool { _, wrong := s.told(t); return !wrong }, 10*time.Second, time.Millisecond)
}

// TestClockCannotBeTold: a node without that volume.
func TestClockCannotBeTold(t *testing.T) {
	s := serve(t, NoSabotage)
	require.NoError(t, os.Remove(s.clock))
	require.ErrorContains(t, s.SetClock(t.Context(), ClockRequest{Op: ClockJump, By: 1}), "cannot be told a time")
}

func TestClockIsRead(t *testing.T) {
	s, ctx := serve(t, NoSabotage), t.Context()
	answer := func(w http.ResponseWriter) { fmt.Fprintln(w, time.Now().Add(-time.Hour).UnixNano()) }
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/clock" {
			http.NotFound(w, r)
			return
		}
		answer(w)
	}))
	defer node.Close()
	port := uint16(node.Listener.Addr().(*net.TCPAddr).Port)
	_, err := s.ReadClock(ctx, port)
	require.ErrorContains(t, err, "not configured")
	require.NoError(t, s.Configure(ctx, config()))
	got, err := s.ReadClock(ctx, port)
	require.NoError(t, err)
	require.Positive(t, got.Error)
	require.InDelta(t, -time.Hour, got.Offset, float64(got.Error), "the error is a bound")

	answer = func(w http.ResponseWriter) { http.Error(w, "busy", http.StatusServiceUnavailable) }
	_, err = s.ReadClock(ctx, port)
	require.ErrorContains(t, err, "503")
	require.ErrorContains(t, err, "busy")
	answer = func(w http.ResponseWriter) { fmt.Fprintln(w, "noon") }
	_, err = s.ReadClock(ctx, port)
	require.ErrorContains(t, err, "does not answer with nanoseconds")
	node.Close()
	_, err = s.ReadClock(ctx, port)
	require.ErrorContains(t, err, "connection refused")
}
