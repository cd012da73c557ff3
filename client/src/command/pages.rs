//! Following a list page by page, without trusting it to end.

use std::future::Future;

use vecino_rest::body::Page;

use crate::{
    api::{ApiError, PAGE},
    failure::Failure,
};

/// So many pages without anything in them end a list.
const MAX_EMPTY: u32 = 100;

/// Asks for page after page with `fetch(limit, cursor)` and gives the items of each to `show`,
/// until there are no more or `limit` of them were shown. How many were shown.
pub(crate) async fn each<T, Fetched>(
    limit: Option<u64>,
    mut fetch: impl FnMut(u32, Option<String>) -> Fetched,
    mut show: impl FnMut(Vec<T>) -> Result<(), Failure>,
) -> Result<u64, Failure>
where
    Fetched: Future<Output = Result<Page<T>, ApiError>>,
{
    let mut left = limit.unwrap_or(u64::MAX);
    let mut shown = 0;
    let mut empty = 0;
    let mut cursor: Option<String> = None;
    loop {
        let ask = u32::try_from(left).map_or(PAGE, |left| left.min(PAGE));
        let mut page = fetch(ask, cursor.clone()).await?;
        page.items
            .truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let count = page.items.len() as u64;
        left -= count;
        shown += count;
        empty = if count == 0 { empty + 1 } else { 0 };
        if count > 0 {
            show(page.items)?;
        }
        let goes_on = page.next_cursor.is_some() && page.next_cursor != cursor;
        if !goes_on || left == 0 || empty == MAX_EMPTY {
            return Ok(shown);
        }
        cursor = page.next_cursor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(limit: Option<u64>, pages: &[(usize, Option<&str>)]) -> (u64, usize) {
        let mut asked = 0;
        let shown = each(
            limit,
            |_, _| {
                let (count, cursor) = pages[asked.min(pages.len() - 1)];
                asked += 1;
                std::future::ready(Ok(Page {
                    items: vec![(); count],
                    next_cursor: cursor.map(str::to_owned),
                }))
            },
            |_| Ok(()),
        )
        .await
        .unwrap();
        (shown, asked)
    }

    #[actix_rt::test]
    async fn lists_end() {
        assert_eq!(
            run(None, &[(2, Some("a")), (0, Some("b")), (1, None)]).await,
            (3, 3)
        );
        assert_eq!(
            run(Some(3), &[(2, Some("a")), (2, Some("b"))]).await,
            (3, 2)
        );
        assert_eq!(
            run(None, &[(2, Some("a"))]).await,
            (4, 2),
            "the same cursor again"
        );
    }

    #[actix_rt::test]
    async fn a_list_of_empty_pages_ends() {
        let pages: Vec<_> = (0..200).map(|_| (0, Some("x"))).collect();
        let (shown, _) = run(None, &pages).await;
        assert_eq!(shown, 0);
        let mut asked = 0_u32;
        let shown = each(
            None,
            |_, _| {
                asked += 1;
                std::future::ready(Ok(Page::<()> {
                    items: Vec::new(),
                    next_cursor: Some(asked.to_string()),
                }))
            },
            |_| Ok(()),
        );
        assert_eq!(shown.await.unwrap(), 0);
        assert_eq!(asked, MAX_EMPTY);
    }
}
