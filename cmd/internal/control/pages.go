package control

import (
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
)

// pages sends a listing of any length in messages of bounded size. What is
// listed is a snapshot, which needs no lock and no copy: a caller who reads
// slowly keeps nobody waiting, and one page of it in memory.
type pages[T proto.Message] struct {
	send func(page []T) error
	page []T
	size int
	sent bool
}

func (p *pages[T]) add(v T) error {
	p.page = append(p.page, v)
	if p.size += proto.Size(v); p.size < pageBytes && len(p.page) < pageObjects {
		return nil
	}
	return p.flush()
}

// flush sends what there is. The page is not used again: the transport may
// still be writing it.
func (p *pages[T]) flush() error {
	page := p.page
	p.page, p.size, p.sent = nil, 0, true
	return p.send(page)
}

// end sends the last page. There is always one, so that what a page says besides
// its objects arrives, too.
func (p *pages[T]) end(err error) error {
	if err != nil || len(p.page) == 0 && p.sent {
		return err
	}
	return p.flush()
}

// collect gathers a listing in one answer, while that is small enough.
func collect[T any](into *[]T) func(T) error {
	return func(v T) error {
		if len(*into) == maxListed {
			return apierr.Invalid("use a stream, or name what you look for", "there are more than %d objects to list", maxListed)
		}
		*into = append(*into, v)
		return nil
	}
}
