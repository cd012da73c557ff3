//! `account add|passwd|remove|list`.

use vecino_grpc::v1;

use super::{
    password,
    place::{Missing, Place, refusal},
    show,
};
use crate::{
    account::{self, hash_password},
    cli::Account,
    config::Config,
    directory::Clock,
};

pub(super) async fn run(verb: Account, config: &Config) -> anyhow::Result<()> {
    match verb {
        Account::Add(args) => {
            let password = password::read(args.password_file.as_deref())?;
            match Place::find(config, Missing::IsMade).await? {
                Place::Running(mut locator) => {
                    let request = v1::AddAccountRequest {
                        user: args.user.to_string(),
                        password,
                    };
                    let added = locator.add_account(request).await;
                    added.map_err(|status| refusal(&status))?;
                }
                Place::Stopped(store) => {
                    let now_ms = Clock::default().wall_ms();
                    let hash = hash_password(&password)?;
                    account::add(&*store, args.user.clone(), hash, now_ms).await?;
                    store.close().await;
                }
            }
            eprintln!("user {:?} has an account", args.user);
        }
        Account::Passwd(args) => {
            let password = password::read(args.password_file.as_deref())?;
            match Place::find(config, Missing::IsAnError).await? {
                Place::Running(mut locator) => {
                    let request = v1::SetPasswordRequest {
                        user: args.user.to_string(),
                        password,
                    };
                    let set = locator.set_password(request).await;
                    set.map_err(|status| refusal(&status))?;
                }
                Place::Stopped(store) => {
                    let hash = hash_password(&password)?;
                    account::set_password(&*store, args.user.clone(), hash).await?;
                    account::put_out(&*store, &args.user, Clock::default().wall_ms()).await?;
                    store.close().await;
                }
            }
            eprintln!("user {:?} has another password", args.user);
        }
        Account::Remove { user } => {
            match Place::find(config, Missing::IsAnError).await? {
                Place::Running(mut locator) => {
                    let request = v1::RemoveAccountRequest {
                        user: user.to_string(),
                    };
                    let removed = locator.remove_account(request).await;
                    removed.map_err(|status| refusal(&status))?;
                }
                Place::Stopped(store) => {
                    account::remove(&*store, user.clone()).await?;
                    account::put_out(&*store, &user, Clock::default().wall_ms()).await?;
                    store.close().await;
                }
            }
            eprintln!("user {user:?} has no account any more");
        }
        Account::List(shown) => {
            let mut rows = show::Rows::new(&["user", "since"], shown.json);
            match Place::find(config, Missing::IsAnError).await? {
                Place::Running(mut locator) => {
                    let listed = locator.list_accounts(v1::ListAccountsRequest {}).await;
                    let mut listed = listed.map_err(|status| refusal(&status))?.into_inner();
                    while let Some(info) = listed.message().await.map_err(|s| refusal(&s))? {
                        rows.account(&info.user, info.created_ms)?;
                    }
                }
                Place::Stopped(store) => {
                    let mut after = None;
                    loop {
                        let page = account::list(&*store, after.as_ref()).await?;
                        for account in &page {
                            rows.account(account.user.as_str(), account.created_ms)?;
                        }
                        match page.into_iter().next_back() {
                            Some(last) => after = Some(last.user),
                            None => break,
                        }
                    }
                }
            }
            rows.end()?;
        }
    }
    Ok(())
}
