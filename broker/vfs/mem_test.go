package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func open(t require.TestingT, fsys FS, name string, create bool) File {
	f, err := fsys.OpenFile(name, create)
	require.NoError(t, err)
	return f
}

func put(t require.TestingT, f File, data string, off int64) {
	n, err := f.WriteAt([]byte(data), off)
	require.NoError(t, err)
	require.Equal(t, len(data), n)
}

func contents(t require.TestingT, fsys FS, name string) string {
	b, err := ReadFile(fsys, name)
	require.NoError(t, err)
	return string(b)
}

// outcomes collects what many power losses leave of a scenario.
func outcomes(t *testing.T, strict bool, scenario func(*Mem), look func(*Mem) string) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for seed := range uint64(400) {
		m := NewMem()
		m.StrictEntries(strict)
		scenario(m)
		m.PowerLoss(source(seed))
		seen[look(m)]++
	}
	return seen
}

func keys(m map[string]int) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// TestTwins runs random operations on both implementations: results, error classes and digests must agree.
func TestTwins(t *testing.T) {
	classes := []error{fs.ErrNotExist, fs.ErrExist, fs.ErrInvalid, syscall.ENOTDIR, syscall.EISDIR, syscall.ENOTEMPTY, syscall.EXDEV}
	class := func(err error) string {
		if err == nil {
			return ""
		}
		for _, c := range classes {
			if errors.Is(err, c) {
				return c.Error()
			}
		}
		return "other: " + err.Error()
	}
	base := t.TempDir()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		osRoot := OS(base)
		require.NoError(rt, osRoot.MkdirAll(fmt.Sprint(run)))
		twins := []FS{NewMem(), OS(path.Join(base, fmt.Sprint(run)))}
		names := []string{"a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "a/x", ".", "../a", "", "/a"}
		name := rapid.SampledFrom(names)
		// both runs one operation on the twins and compares what they return.
		both := func(what string, op func(FS) (string, error)) {
			r0, err0 := op(twins[0])
			r1, err1 := op(twins[1])
			require.Equal(rt, class(err1), class(err0), what)
			require.Equal(rt, r1, r0, what)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"mkdir": func(rt *rapid.T) {
				n := name.Draw(rt, "name")
				both("mkdir "+n, func(f FS) (string, error) { return "", f.MkdirAll(n) })
			},
			"file": func(rt *rapid.T) {
				n, create := name.Draw(rt, "name"), rapid.Bool().Draw(rt, "create")
				off, size := rapid.Int64Range(0, 50).Draw(rt, "off"), rapid.Int64Range(0, 60).Draw(rt, "size")
				data := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(rt, "data")
				both("file "+n, func(fsys FS) (string, error) {
					f, err := fsys.OpenFile(n, create)
					if err != nil {
						return "", err
					}
					w, err := f.WriteAt(data, off)
					require.NoError(rt, err)
					require.NoError(rt, f.Sync())
					before, err := f.Size()
					require.NoError(rt, err)
					require.NoError(rt, f.Truncate(size))
					b := make([]byte, 30)
					r, err := f.ReadAt(b, 10)
					require.Equal(rt, r < len(b), err == io.EOF)
					require.NoError(rt, f.Close())
					require.ErrorIs(rt, f.Close(), fs.ErrClosed)
					_, err = f.WriteAt([]byte("x"), 0)
					require.ErrorIs(rt, err, fs.ErrClosed)
					return fmt.Sprint(w, before, b[:r]), nil
				})
			},
			"remove": func(rt *rapid.T) {
				n := name.Draw(rt, "name")
				both("remove "+n, func(f FS) (string, error) { return "", f.Remove(n) })
			},
			"removeAll": func(rt *rapid.T) {
				n := name.Draw(rt, "name")
				both("removeAll "+n, func(f FS) (string, error) { return "", f.RemoveAll(n) })
			},
			"rename": func(rt *rapid.T) {
				from, to := name.Draw(rt, "from"), name.Draw(rt, "to")
				both("rename "+from+" "+to, func(f FS) (string, error) { return "", f.Rename(from, to) })
			},
			"list": func(rt *rapid.T) {
				n := name.Draw(rt, "name")
				both("list "+n, func(f FS) (string, error) {
					names, err := f.List(n)
					require.True(rt, slices.IsSorted(names))
					return fmt.Sprintf("%q", names), err
				})
			},
			"stat": func(rt *rapid.T) {
				n := name.Draw(rt, "name")
				both("stat "+n, func(f FS) (string, error) {
					i, err := f.Stat(n)
					return fmt.Sprint(i), err
				})
			},
			"": func(rt *rapid.T) {
				d1, err := Digest(twins[1], ".")
				require.NoError(rt, err)
				require.Equal(rt, d1, twins[0].(*Mem).Digest())
			},
		})
		require.NoError(rt, twins[0].SyncDir("."))
		require.NoError(rt, twins[1].SyncDir("."))
	})
}

func TestSyncedSurvivesPowerLoss(t *testing.T) {
	for _, strict := range []bool{false, true} {
		seen := outcomes(t, strict, func(m *Mem) {
			require.NoError(t, MkdirSynced(m, "d/e"))
			f := open(t, m, "d/e/a", true)
			put(t, f, "hello", 0)
			require.NoError(t, f.Sync())
			require.NoError(t, m.SyncDir("d/e"))
		}, func(m *Mem) string { return contents(t, m, "d/e/a") })
		require.Equal(t, []string{"hello"}, keys(seen), "strict %v", strict)
	}
}

func TestSyncOfNewFileKeepsItsEntry(t *testing.T) {
	scenario := func(m *Mem) {
		require.NoError(t, m.MkdirAll("d"))
		f := open(t, m, "d/a", true)
		put(t, f, "x", 0)
		require.NoError(t, f.Sync())
	}
	look := func(m *Mem) string {
		ok, err := Exists(m, "d/a")
		require.NoError(t, err)
		return fmt.Sprint(ok)
	}
	require.Equal(t, []string{"true"}, keys(outcomes(t, false, scenario, look)), "ext4")
	require.Equal(t, []string{"false", "true"}, keys(outcomes(t, true, scenario, look)), "POSIX")
}

func TestUnsyncedWritesMayBeLostTornOrReordered(t *testing.T) {
	seen := outcomes(t, false, func(m *Mem) {
		f := open(t, m, "a", true)
		put(t, f, string(make([]byte, 2*pageBytes)), 0)
		require.NoError(t, f.Sync())
		put(t, f, "1111", 0)
		put(t, f, "2222", pageBytes)
	}, func(m *Mem) string {
		c := contents(t, m, "a")
		require.Len(t, c, 2*pageBytes)
		return fmt.Sprintf("%q", c[:4]+c[pageBytes:pageBytes+4])
	})
	none, all := `"\x00\x00\x00\x00\x00\x00\x00\x00"`, `"11112222"`
	torn, later := `"1111\x00\x00\x00\x00"`, `"\x00\x00\x00\x002222"`
	for _, want := range []string{none, all, torn, later, `"111122\x00\x00"`} {
		require.Positive(t, seen[want], "%s in %v", want, seen)
	}
}

func TestUnsyncedTruncationMayComeBack(t *testing.T) {
	seen := outcomes(t, false, func(m *Mem) {
		f := open(t, m, "a", true)
		put(t, f, strings.Repeat("o", 3*sectorBytes), 0)
		require.NoError(t, f.Sync())
		require.NoError(t, f.Truncate(4))
		put(t, f, "NEW", 4)
	}, func(m *Mem) string {
		c := contents(t, m, "a")
		tail := "nothing"
		if len(c) == 3*sectorBytes {
			tail = fmt.Sprintf("%q", c[len(c)-1:])
		}
		return c[:min(7, len(c))] + " then " + tail
	})
	for _, want := range []string{"ooooooo then \"o\"", "ooooNEW then nothing", "ooooNEW then \"o\"", "oooo then nothing"} {
		require.Positive(t, seen[want], "%s in %v", want, seen)
	}
}

func TestUnsyncedEntriesSurviveAsPrefix(t *testing.T) {
	seen := outcomes(t, true, func(m *Mem) {
		for _, n := range []string{"a", "b"} {
			f := open(t, m, n, true)
			put(t, f, n, 0)
			require.NoError(t, f.Sync())
		}
		require.NoError(t, m.SyncDir("."))
		require.NoError(t, m.Rename("b", "c"))
		require.NoError(t, m.Rename("c", "a"))
		require.NoError(t, m.Remove("a"))
	}, func(m *Mem) string {
		names, err := m.List(".")
		require.NoError(t, err)
		out := ""
		for _, n := range names {
			out += n + "=" + contents(t, m, n) + " "
		}
		return out
	})
	require.Equal(t, []string{"", "a=a b=b ", "a=a c=b ", "a=b "}, keys(seen))
}

func TestFailedSyncLosesWhatWasUnsynced(t *testing.T) {
	seen := outcomes(t, false, func(m *Mem) {
		f := open(t, m, "a", true)
		put(t, f, "kept", 0)
		require.NoError(t, f.Sync())
		put(t, f, "lost", 4)
		m.SetError(func(op, _ string) error {
			if op == OpSync {
				return syscall.EIO
			}
			return nil
		})
		require.ErrorIs(t, f.Sync(), syscall.EIO)
		m.SetError(nil)
		require.Equal(t, "keptlost", contents(t, m, "a"))
		require.NoError(t, f.Sync(), "a second sync succeeds and writes nothing")
	}, func(m *Mem) string { return contents(t, m, "a") })
	require.Equal(t, []string{"kept"}, keys(seen))
}

func TestPowerLossIsDeterministicAndMakesFilesStale(t *testing.T) {
	run := func() (string, File) {
		m := NewMem()
		require.NoError(t, m.MkdirAll("d"))
		var f File
		for i := range 20 {
			f = open(t, m, fmt.Sprintf("d/%d", i), true)
			for j := range 5 {
				put(t, f, fmt.Sprint(i, j), int64(j)*1000)
			}
		}
		require.NoError(t, m.SyncDir("."))
		require.NoError(t, m.SyncDir("d"))
		m.PowerLoss(source(7))
		return m.Digest(), f
	}
	d1, f := run()
	d2, _ := run()
	require.Equal(t, d1, d2)
	_, err := f.WriteAt([]byte("x"), 0)
	require.ErrorIs(t, err, fs.ErrClosed)
	require.ErrorIs(t, f.Sync(), fs.ErrClosed)
	require.NoError(t, f.Close())
}

// TestSharedMemoryCannotBeSeen: a file whose durable bytes lie in the memory of the visible ones behaves as one that
// has both apart.
func TestSharedMemoryCannotBeSeen(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		shared, apart := NewMem(), NewMem()
		both := func(op func(*Mem) error) {
			err := op(shared)
			require.Equal(rt, err, op(apart))
			apart.root.entries["f"].part()
		}
		file := func(do func(File) error) {
			both(func(m *Mem) error {
				f, err := m.OpenFile("f", true)
				if err != nil {
					return err
				}
				return errors.Join(do(f), f.Close())
			})
		}
		file(File.Sync)
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				data := rapid.SliceOfN(rapid.Byte(), 1, 3000).Draw(rt, "data")
				file(func(f File) error {
					size, _ := f.Size()
					_, err := f.WriteAt(data, size)
					return err
				})
			},
			"write": func(rt *rapid.T) {
				off, data := rapid.Int64Range(0, 9000).Draw(rt, "off"), rapid.SliceOfN(rapid.Byte(), 1, 2000).Draw(rt, "data")
				file(func(f File) error { _, err := f.WriteAt(data, off); return err })
			},
			"truncate": func(rt *rapid.T) {
				size := rapid.Int64Range(0, 9000).Draw(rt, "size")
				file(func(f File) error { return f.Truncate(size) })
			},
			"sync": func(*rapid.T) { file(File.Sync) },
			"failed sync": func(*rapid.T) {
				file(func(f File) error {
					m := f.(*memFile).m
					m.SetError(func(string, string) error { return syscall.EIO })
					defer m.SetError(nil)
					return f.Sync()
				})
			},
			"flip": func(rt *rapid.T) {
				off := rapid.Int64Range(0, 9000).Draw(rt, "off")
				both(func(m *Mem) error { return m.Flip("f", off, 3) })
			},
			"cut": func(rt *rapid.T) {
				size := rapid.Int64Range(0, 9000).Draw(rt, "size")
				both(func(m *Mem) error { return m.Cut("f", size) })
			},
			"power loss": func(rt *rapid.T) {
				seed := rapid.Uint64().Draw(rt, "seed")
				both(func(m *Mem) error { m.PowerLoss(source(seed)); return nil })
			},
			"": func(rt *rapid.T) {
				require.Equal(rt, apart.Digest(), shared.Digest())
				a, s := apart.root.entries["f"], shared.root.entries["f"]
				require.Equal(rt, string(a.durable), string(s.durable))
				require.Equal(rt, len(a.pending), len(s.pending))
				require.Equal(rt, apart.Used(), shared.Used())
			},
		})
	})
}

func TestCapacity(t *testing.T) {
	m := NewMem()
	m.SetCapacity(10)
	f := open(t, m, "a", true)
	put(t, f, "12345678", 0)
	n, err := f.WriteAt([]byte("abcd"), 8)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Equal(t, 2, n)
	require.Equal(t, "12345678ab", contents(t, m, "a"))
	put(t, f, "XY", 0) // in place needs no room
	require.ErrorIs(t, f.Truncate(11), syscall.ENOSPC)
	g := open(t, m, "b", true)
	n, err = g.WriteAt([]byte("z"), 0)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Zero(t, n)
	require.NoError(t, f.Truncate(9))
	put(t, g, "z", 0)
	require.EqualValues(t, 10, m.Used())
	require.NoError(t, m.Remove("a"))
	require.EqualValues(t, 1, m.Used())
	require.NoError(t, m.Rename("b", "c"))
	open(t, m, "d", true)
	require.NoError(t, m.Rename("d", "c"))
	require.Zero(t, m.Used(), "the file that was replaced is gone")
}

func TestFlip(t *testing.T) {
	m := NewMem()
	f := open(t, m, "a", true)
	put(t, f, "AA", 0)
	require.NoError(t, f.Sync())
	put(t, f, "AA", 2)
	require.NoError(t, m.Flip("a", 1, 1))
	require.NoError(t, m.Flip("a", 3, 0))
	require.Equal(t, "ACA@", contents(t, m, "a"))
	require.NoError(t, f.Sync())
	m.PowerLoss(source(1))
	require.Equal(t, "ACA@", contents(t, m, "a"))
	require.ErrorIs(t, m.Flip("a", 4, 0), fs.ErrInvalid)
	require.ErrorIs(t, m.Flip("a", 0, 8), fs.ErrInvalid)
	require.ErrorIs(t, m.Flip("b", 0, 0), fs.ErrNotExist)
}

func TestCut(t *testing.T) {
	for _, how := range []string{"synced", "not synced", "both"} {
		t.Run(how, func(t *testing.T) {
			for seed := range uint64(50) {
				m := NewMem()
				f := open(t, m, "a", true)
				put(t, f, "1234", 0)
				if how != "not synced" {
					require.NoError(t, f.Sync())
				}
				if how != "synced" {
					put(t, f, "5678", 4)
				}
				require.NoError(t, m.Cut("a", 3))
				require.Equal(t, "123", contents(t, m, "a"))
				require.EqualValues(t, 3, m.Used())
				put(t, f, "x", 5) // an open file goes on, and the gap reads as zeros
				require.Equal(t, "123\x00\x00x", contents(t, m, "a"))
				require.NoError(t, m.Cut("a", 3))
				m.PowerLoss(source(seed))
				if how != "synced" && how != "both" {
					continue // nothing of it need have survived, not even its name
				}
				require.Equal(t, "123", contents(t, m, "a"), "it is cut on the medium too")
			}
		})
	}
	m := NewMem()
	open(t, m, "a", true)
	require.ErrorIs(t, m.Cut("a", 1), fs.ErrInvalid)
	require.ErrorIs(t, m.Cut("a", -1), fs.ErrInvalid)
	require.ErrorIs(t, m.Cut("b", 0), fs.ErrNotExist)
	require.ErrorIs(t, m.Cut("../b", 0), fs.ErrInvalid)
}

func TestWipe(t *testing.T) {
	m := NewMem()
	empty := m.Digest()
	f := open(t, m, "a", true)
	put(t, f, "x", 0)
	require.NotEqual(t, empty, m.Digest())
	m.Wipe()
	require.Equal(t, empty, m.Digest())
	require.Zero(t, m.Used())
	_, err := f.Size()
	require.ErrorIs(t, err, fs.ErrClosed)
}

func TestInjectedErrorsNameOperationAndFile(t *testing.T) {
	m := NewMem()
	require.NoError(t, m.MkdirAll("d"))
	f := open(t, m, "d/a", true)
	var asked []string
	m.SetError(func(op, name string) error {
		asked = append(asked, op+" "+name)
		return syscall.EIO
	})
	errs := []error{
		m.MkdirAll("e"), m.Remove("d/a"), m.RemoveAll("d"), m.Rename("d/a", "d/b"), m.SyncDir("d"),
		f.Truncate(1), f.Sync(),
	}
	_, err := m.List("d")
	errs = append(errs, err)
	_, err = m.Stat("d/a")
	errs = append(errs, err)
	_, err = f.WriteAt([]byte("x"), 0)
	errs = append(errs, err)
	_, err = f.ReadAt(make([]byte, 1), 0)
	errs = append(errs, err)
	_, err = m.OpenFile("d/a", true)
	errs = append(errs, err)
	_, err = m.OpenFile("d/new", true)
	errs = append(errs, err)
	for _, err := range errs {
		require.ErrorIs(t, err, syscall.EIO)
	}
	require.Equal(t, []string{
		"mkdir e", "remove d/a", "remove d/a", "rename d/a", "syncdir d", "truncate d/a", "sync d/a", "list d", "stat d/a",
		"write d/a", "read d/a", "open d/a", "create d/new",
	}, asked)
	m.SetError(nil)
	names, err := m.List("d")
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, names, "nothing was done")
}
