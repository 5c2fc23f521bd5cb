package ext4

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSizes(t *testing.T) {
	require.Equal(t, 0x160, binary.Size(superblock{}))
	require.Equal(t, 32, binary.Size(group{}))
	require.Equal(t, 0x82, binary.Size(inode{}))
	require.Equal(t, 0x110, binary.Size(journalHead{}))
	for _, size := range []int64{0, -GroupSize, 1, GroupSize + 1, (maxGroups + 1) * GroupSize} {
		require.Error(t, Format(nil, size), size)
	}
}

// TestChecked lets e2fsck, where there is one, judge what was made.
func TestChecked(t *testing.T) {
	fsck, err := exec.LookPath("e2fsck")
	if err != nil {
		t.Skip("needs e2fsck of e2fsprogs")
	}
	for _, groups := range []int64{1, 8} {
		image := filepath.Join(t.TempDir(), "image")
		f, err := os.Create(image)
		require.NoError(t, err)
		require.NoError(t, f.Truncate(groups*GroupSize))
		require.NoError(t, Format(f, groups*GroupSize))
		require.NoError(t, f.Close())
		out, err := exec.CommandContext(t.Context(), fsck, "-f", "-n", image).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}
