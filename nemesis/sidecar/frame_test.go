package sidecar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFrameRoundTrip(t *testing.T) {
	var buf bytes.Buffer
	want := []Request{{ID: 1, Op: opObserve}, {ID: 2, Op: opApply, Apply: &RuleSet{ID: "x", Drops: []Drop{{Hook: Input, Peer: "n1", Port: 9093}}}}}
	for _, r := range want {
		require.NoError(t, WriteFrame(&buf, r))
	}
	for _, r := range want {
		var got Request
		require.NoError(t, ReadFrame(&buf, &got))
		require.Equal(t, r, got)
	}
	var r Request
	require.Equal(t, io.EOF, ReadFrame(&buf, &r), "the end between two frames")
}

func TestFrameRefused(t *testing.T) {
	require.ErrorIs(t, WriteFrame(io.Discard, strings.Repeat("x", MaxFrame)), ErrFrame)
	for name, in := range map[string][]byte{
		"cut short in the length": {0, 0},
		"empty":                   {0, 0, 0, 0},
		"too long":                binary.BigEndian.AppendUint32(nil, MaxFrame+1),
		"without body":            {0, 0, 0, 2},
		"cut short in the body":   {0, 0, 0, 2, '{'},
		"not JSON":                {0, 0, 0, 2, '{', '{'},
		"of another type":         {0, 0, 0, 2, '[', ']'},
	} {
		t.Run(name, func(t *testing.T) {
			var r Request
			require.ErrorIs(t, ReadFrame(bytes.NewReader(in), &r), ErrFrame)
		})
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte("\x00\x00\x00\x18{\"id\":1,\"op\":\"observe\"}x"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var r Request
		err := ReadFrame(bytes.NewReader(in), &r)
		if err != nil {
			if err != io.EOF && !errors.Is(err, ErrFrame) {
				t.Fatalf("an error of no known kind: %v", err)
			}
			return
		}
		var buf bytes.Buffer
		require.NoError(t, WriteFrame(&buf, r))
		var again Request
		require.NoError(t, ReadFrame(&buf, &again))
		require.Equal(t, r, again)
	})
}
