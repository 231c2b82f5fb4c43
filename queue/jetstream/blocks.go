package jetstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/minio/highwayhash"
)

// A server that finds a record it cannot read, when it reads its folder, cuts
// off this one and all behind it, up to 8 MiB of calls, and says nothing. So
// the files are read before the server may: a record that is not whole is only
// the end of the last file, as a killed server leaves it.
//
// A record of nats-server 2.14 is: its length with a bit for headers, place,
// time, length of the subject; subject, length of headers if any, headers,
// data; checksum of place to data.

const (
	recordHead    = 4 + 8 + 8 + 2
	recordSum     = 8
	recordHeaders = 1 << 31
	// largestRecord is more than any that a server writes.
	largestRecord = 64 << 20
)

// checkBlocks reads all streams of a folder. cut says what of the last files is
// no whole record, and is allowed only after a server that was killed.
func checkBlocks(dir string, killed bool) (cut []string, err error) {
	streams, err := filepath.Glob(filepath.Join(dir, "jetstream", "$G", "streams", "*"))
	if err != nil {
		return nil, err
	}
	for _, stream := range streams {
		tail, err := checkStream(stream, killed)
		if err != nil {
			return nil, fmt.Errorf("%w: the server would drop what follows; put the folder back from a backup, or move the file away to go on without the calls in it", err)
		}
		if tail != "" {
			cut = append(cut, tail)
		}
	}
	return cut, nil
}

func checkStream(stream string, killed bool) (cut string, err error) {
	entries, err := os.ReadDir(filepath.Join(stream, "msgs"))
	if os.IsNotExist(err) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	numbers := blocks(entries)
	for i, n := range numbers {
		path := filepath.Join(stream, "msgs", strconv.Itoa(n)+".blk")
		data, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if bytes.HasPrefix(data, []byte("cmp")) {
			continue // somebody asked for compression; weir does not
		}
		key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", filepath.Base(stream), n))
		whole := wholeRecords(data, key)
		if whole == len(data) {
			continue
		}
		last := i == len(numbers)-1
		if !last || !killed || followed(data, whole, key) {
			return "", fmt.Errorf("%s is damaged at byte %d of %d", path, whole, len(data))
		}
		cut = fmt.Sprintf("%s: the last %d bytes", path, len(data)-whole)
	}
	return cut, nil
}

func blocks(entries []fs.DirEntry) (numbers []int) {
	for _, e := range entries {
		name, is := strings.CutSuffix(e.Name(), ".blk")
		if n, err := strconv.Atoi(name); is && err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers
}

// wholeRecords is how many bytes of data are whole records.
func wholeRecords(data []byte, key [32]byte) int {
	hash, err := highwayhash.New64(key[:])
	if err != nil {
		return 0
	}
	var sum [recordSum]byte
	at := 0
	for at < len(data) {
		n, body, subject := record(data[at:])
		if n == 0 {
			break
		}
		hash.Reset()
		hash.Write(data[at+4 : at+20])
		hash.Write(data[at+recordHead : at+recordHead+subject])
		hash.Write(data[at+body : at+n-recordSum])
		if !bytes.Equal(hash.Sum(sum[:0]), data[at+n-recordSum:at+n]) {
			break
		}
		at += n
	}
	return at
}

// record is the length of the record at the beginning of data, where what
// follows its subject begins, and how long that is; 0 where it is none.
func record(data []byte) (n, body, subject int) {
	if len(data) < recordHead {
		return 0, 0, 0
	}
	length := binary.LittleEndian.Uint32(data)
	n = int(length &^ recordHeaders)
	subject = int(binary.LittleEndian.Uint16(data[20:]))
	body = recordHead + subject
	if length&recordHeaders != 0 {
		body += 4
	}
	if n > largestRecord || n > len(data) || body > n-recordSum {
		return 0, 0, 0
	}
	return n, body, subject
}

// followed says whether there are whole records behind a broken one: then it
// is no end that was being written.
func followed(data []byte, at int, key [32]byte) bool {
	n, _, _ := record(data[at:])
	return n > 0 && at+n < len(data) && wholeRecords(data[at+n:], key) > 0
}
