// Package document puts what a program has drawn into the documents: pictures
// into a folder, and a table between the two marks that a document has for it.
package document

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Drawing is what a program draws of its data.
type Drawing struct {
	// Mark names the place of the table: between <!-- Mark:begin --> and
	// <!-- Mark:end -->.
	Mark  string
	Table string
	// Pictures are files, by their names in the folder.
	Pictures map[string][]byte
}

// Main is the main function of a program whose arguments are the folder of the
// pictures, which may hold its data too, and the document.
func Main(draw func(folder string) (Drawing, error)) {
	name := filepath.Base(os.Args[0])
	if len(os.Args) != 3 {
		fmt.Fprintf(os.Stderr, "usage: %s FOLDER DOCUMENT\n", name)
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2], draw); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

func write(folder, document string, draw func(folder string) (Drawing, error)) error {
	d, err := draw(folder)
	if err != nil {
		return err
	}
	files, err := d.Files(folder, document)
	if err != nil {
		return err
	}
	for path, content := range files {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Files is the content of everything that is made of the drawing, by path: of
// the pictures, and of the document with the table.
func (d Drawing) Files(folder, document string) (map[string][]byte, error) {
	text, err := os.ReadFile(document)
	if err != nil {
		return nil, err
	}
	if text, err = between(text, d.Mark, d.Table); err != nil {
		return nil, fmt.Errorf("%s: %w", document, err)
	}
	files := map[string][]byte{document: text}
	for name, picture := range d.Pictures {
		files[filepath.Join(folder, name)] = picture
	}
	return files, nil
}

// errNoMarks is what between says of a document without a place for the table.
var errNoMarks = errors.New("no place for the table")

// between puts table between the marks of a document.
func between(document []byte, mark, table string) ([]byte, error) {
	begin, end := "<!-- "+mark+":begin -->\n", "<!-- "+mark+":end -->"
	head, rest, ok := strings.Cut(string(document), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return nil, fmt.Errorf("%w: expected the lines %s and %s", errNoMarks, strings.TrimSpace(begin), end)
	}
	return []byte(head + begin + table + end + tail), nil
}
